//! Work beside steps: a small, even share of one core while they want all cores, as fast as it goes while they do not.
//!
//! The parts of a step wait for each other, so what a background thread takes from one core the whole step lasts longer.
//! Low priority alone does not bound that: the threads of a step sleep for moments between its operators, and who then
//! gets their core keeps it for a time slice.

use std::cell::RefCell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Of one core, for each thread that holds back.
pub const SHARE: f64 = 1.0 / 10.0;
/// Processor time that may come in one piece after a pause: a small adapter need not wait for its share.
pub const BURST: Duration = Duration::from_millis(1);
/// Work between two looks at the clock: some 50 µs of hashing.
const PIECE: usize = 64 << 10;
/// Between two steps of a busy engine less time passes than this.
const BETWEEN_STEPS: Duration = Duration::from_millis(5);
/// A pause looks this often whether the steps have ended.
const LONGEST_SLEEP: Duration = Duration::from_millis(4);
/// Weight 110 against the 1024 of threads that are not nice.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Threads of all steps in flight.
static STEPPING: AtomicUsize = AtomicUsize::new(0);
/// When the last step that wanted all cores ended, in µs after `epoch`; 0 = never.
static LAST_END: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static PACER: RefCell<Option<Pacer>> = const { RefCell::new(None) };
}

/// A step in flight, for as long as it lives.
pub struct Step {
    threads: usize,
}

impl Step {
    /// `threads` that the step computes with.
    #[must_use]
    pub fn begin(threads: usize) -> Self {
        STEPPING.fetch_add(threads, Ordering::Relaxed);
        Self { threads }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if STEPPING.fetch_sub(self.threads, Ordering::Relaxed) >= cores() {
            let now = u64::try_from(epoch().elapsed().as_micros()).unwrap_or(u64::MAX);
            LAST_END.store(now.max(1), Ordering::Relaxed);
        }
    }
}

/// Makes the calling thread one that holds back: of low priority, and [`worked`] makes it pause.
pub fn hold_back() {
    #[cfg(target_os = "linux")]
    // SAFETY: takes plain numbers. On Linux 0 means the calling thread alone. Lowering oneself is always allowed.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS);
    }
    PACER.set(Some(Pacer { bytes: 0, credit: BURST.as_secs_f64(), wall: Instant::now(), cpu: cpu_time() }));
}

/// Says that the calling thread has gone through `bytes`. Pauses it when it is one that holds back and has had its share;
/// to be called often enough that less than a tenth of a millisecond lies between two calls.
pub fn worked(bytes: usize) {
    PACER.with_borrow_mut(|pacer| {
        if let Some(pacer) = pacer {
            pacer.worked(bytes);
        }
    });
}

struct Pacer {
    /// Since the last look at the clock.
    bytes: usize,
    /// Seconds of processor time that may be spent before the next pause.
    credit: f64,
    /// What the credit was reckoned at.
    wall: Instant,
    cpu: Duration,
}

impl Pacer {
    fn worked(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes < PIECE {
            return;
        }
        self.bytes = 0;
        while let Some(pause) = self.pause() {
            std::thread::sleep(pause);
        }
    }

    /// How long to sleep before looking again, None to go on.
    fn pause(&mut self) -> Option<Duration> {
        let (wall, cpu) = (Instant::now(), cpu_time());
        let earned = (wall - self.wall).as_secs_f64() * SHARE;
        let spent = cpu.saturating_sub(self.cpu).as_secs_f64();
        (self.wall, self.cpu) = (wall, cpu);
        if !steps_want_all_cores() {
            self.credit = BURST.as_secs_f64();
            return None;
        }
        self.credit = (self.credit + earned - spent).min(BURST.as_secs_f64());
        (self.credit < 0.0).then(|| Duration::from_secs_f64(-self.credit / SHARE).min(LONGEST_SLEEP))
    }
}

fn steps_want_all_cores() -> bool {
    if STEPPING.load(Ordering::Relaxed) >= cores() {
        return true;
    }
    let ended = LAST_END.load(Ordering::Relaxed);
    ended > 0 && epoch().elapsed() < Duration::from_micros(ended) + BETWEEN_STEPS
}

fn epoch() -> &'static Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    EPOCH.get_or_init(Instant::now)
}

/// Those that this process may use.
fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// Processor time of the calling thread.
#[cfg(target_os = "linux")]
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec, which lives here.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Where a thread cannot tell its processor time: the time that passed, of which it had no more.
#[cfg(not(target_os = "linux"))]
fn cpu_time() -> Duration {
    epoch().elapsed()
}
