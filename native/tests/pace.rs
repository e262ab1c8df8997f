//! Background work beside steps: its share of a core is bounded, and nothing slows it down otherwise.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "test code: a failure is a panic")]

use loramux_native::pace::{BURST, SHARE, Step, hold_back, worked};
use std::time::{Duration, Instant};

const PIECE: usize = 64 << 10;

fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// Times that the thread gave up its core of its own accord.
fn sleeps() -> i64 {
    // SAFETY: plain numbers, all zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: writes one rusage.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_nvcsw
}

/// Works until `cpu` of processor time is spent. Returns the time that passed, and the most processor time that was ever
/// taken beyond the share of what had passed until then.
fn work(cpu: Duration) -> (Duration, Duration) {
    let (started, spent) = (Instant::now(), cpu_time());
    let (mut wall, mut used) = (started, spent);
    let (mut beyond, mut most) = (Duration::ZERO, Duration::ZERO);
    let mut sum = 0u64;
    while used.saturating_sub(spent) < cpu {
        for i in 0..20_000u64 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(i));
        }
        let (now, so_far) = (Instant::now(), cpu_time());
        beyond = beyond.saturating_sub((now - wall).mul_f64(SHARE));
        let taken = so_far.saturating_sub(used);
        // A piece is some 50 µs; what makes one longer than this is an interrupt or the machine's own host.
        if taken < BURST / 2 {
            beyond += taken;
        }
        most = most.max(beyond);
        (wall, used) = (now, so_far);
        worked(PIECE);
    }
    (started.elapsed(), most)
}

/// One test: steps in flight are the process's. Each part has a thread of its own.
#[test]
fn only_steps_that_want_all_cores_hold_work_back() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let on_a_thread = |paced: bool, cpu: u64| {
        std::thread::spawn(move || {
            if paced {
                hold_back();
            }
            let before = sleeps();
            let (passed, most) = work(Duration::from_millis(cpu));
            (passed, most, sleeps() - before)
        })
        .join()
        .unwrap()
    };
    let (_, _, slept) = on_a_thread(true, 20);
    assert_eq!(slept, 0, "no step, no pause");

    if cores > 1 {
        let step = Step::begin(cores - 1);
        let (_, _, slept) = on_a_thread(true, 20);
        assert_eq!(slept, 0, "a core is left");
        drop(step);
    }

    let step = Step::begin(cores);
    let (passed, most, _) = on_a_thread(true, 20);
    let least = Duration::from_millis(20).saturating_sub(2 * BURST).div_f64(SHARE);
    assert!(passed > least, "20 ms of work took {passed:?}, expected at least {least:?}");
    assert!(most < 2 * BURST, "{most:?} at once");
    let (_, _, slept) = on_a_thread(false, 20);
    assert_eq!(slept, 0, "other threads are not held back");

    // The pauses end with the steps: not only the next load is fast.
    let loading = std::thread::spawn(|| {
        hold_back();
        let (passed, _) = work(Duration::from_millis(20));
        passed
    });
    std::thread::sleep(Duration::from_millis(40));
    drop(step);
    assert!(loading.join().unwrap() >= Duration::from_millis(40));
    std::thread::sleep(Duration::from_millis(10));
    let (_, _, slept) = on_a_thread(true, 20);
    assert_eq!(slept, 0, "the step is over");
}
