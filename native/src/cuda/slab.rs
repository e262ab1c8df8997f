//! Pinned memory in pages, for what is kept on the host: asked of the driver in large pieces, because each takes long, and
//! only as pages are needed; given back when the engine goes.

use super::device::{Device, check};
use super::memory::{DeviceBuffer, PinnedBuffer};
use super::staging::{Queue, Run, copy_in, copy_out};
use super::stream::Stream;
use crate::error::{Code, Error, Result};
use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a page: what is kept is rounded up to it, and copies of it are efficient.
pub const PAGE: usize = 256 << 10;
/// Pages that are asked for at once.
const PIECE: usize = 256;

/// Gives pinned memory of so many bytes.
pub type Source = Box<dyn Fn(usize) -> Result<PinnedBuffer> + Send + Sync>;

/// A budget of pages.
pub struct Slab {
    source: Source,
    /// Of all pieces together.
    most: usize,
    state: Mutex<State>,
    /// Held while a piece is asked for.
    growing: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// With the number of its first page.
    pieces: Vec<(usize, PinnedBuffer)>,
    pages: usize,
    free: BTreeSet<usize>,
    /// There is no more pinned memory.
    exhausted: bool,
}

/// Pages that hold one thing, in order; they are free again when this is dropped.
pub struct Pages {
    slab: Arc<Slab>,
    numbers: Vec<usize>,
    /// Neighbours together.
    chunks: Vec<Chunk>,
    /// A device may write to them whatever happens: they are never given to anyone else.
    lost: bool,
}

/// Bytes that lie in one place.
struct Chunk {
    /// Of what the pages hold.
    from: usize,
    len: usize,
    data: NonNull<u8>,
}

// SAFETY: pages have one owner, and the memory lives as long as the slab that it holds.
unsafe impl Send for Pages {}

impl Slab {
    /// At most `bytes` of `device`'s pinned memory, in whole pages.
    #[must_use]
    pub fn new(device: &Device, bytes: usize) -> Arc<Self> {
        let device = device.clone();
        Self::of(bytes, Box::new(move |bytes| device.pinned(bytes)))
    }

    /// The same of what `source` gives.
    #[must_use]
    pub fn of(bytes: usize, source: Source) -> Arc<Self> {
        Arc::new(Self { source, most: bytes / PAGE, state: Mutex::default(), growing: Mutex::default() })
    }

    /// Pages for `bytes`; None when there are not enough.
    #[must_use]
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Pages> {
        let count = bytes.div_ceil(PAGE).max(1);
        let _growing = lock(&self.growing);
        loop {
            let mut state = lock(&self.state);
            if state.free.len() >= count {
                let numbers: Vec<usize> = (0..count).filter_map(|_| state.free.pop_first()).collect();
                let chunks = state.chunks(&numbers);
                return Some(Pages { slab: self.clone(), numbers, chunks, lost: false });
            }
            let left = if state.exhausted { 0 } else { self.most - state.pages };
            if state.free.len() + left < count {
                return None;
            }
            drop(state);
            // Nobody waits for the driver but whoever takes pages, too.
            let pages = left.min(PIECE);
            let piece = (self.source)(pages * PAGE);
            let mut state = lock(&self.state);
            match piece {
                Ok(piece) if piece.len() >= pages * PAGE => {
                    let first = state.pages;
                    state.pieces.push((first, piece));
                    state.pages += pages;
                    state.free.extend(first..first + pages);
                }
                _ => state.exhausted = true,
            }
        }
    }

    /// Bytes of pages that are in use.
    #[must_use]
    pub fn used(&self) -> usize {
        let state = lock(&self.state);
        (state.pages - state.free.len()) * PAGE
    }
}

impl State {
    fn chunks(&self, numbers: &[usize]) -> Vec<Chunk> {
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut before = None;
        for (at, &number) in numbers.iter().enumerate() {
            // Pieces begin at whole pages; what two pieces are made of is never one copy, neighbours or not.
            let piece = self.pieces.partition_point(|(first, _)| *first <= number) - 1;
            let (first, memory) = &self.pieces[piece];
            if let (Some(last), true) = (chunks.last_mut(), before == Some((piece, number.wrapping_sub(1)))) {
                last.len += PAGE;
            } else {
                // SAFETY: the page lies within the piece.
                let data = unsafe { memory.ptr().add((number - first) * PAGE) };
                chunks.push(Chunk { from: at * PAGE, len: PAGE, data });
            }
            before = Some((piece, number));
        }
        chunks
    }
}

impl Pages {
    /// Bytes that they have.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.numbers.len() * PAGE
    }

    /// Writes an address at byte `at`, a multiple of 8.
    ///
    /// # Errors
    /// `ERR_NATIVE` for a byte that is not there.
    pub fn put(&mut self, at: usize, address: usize) -> Result<()> {
        let value = address.to_ne_bytes();
        let chunk = self.chunks.iter().find(|chunk| at >= chunk.from && at - chunk.from < chunk.len);
        let chunk = chunk.filter(|chunk| chunk.len - (at - chunk.from) >= value.len());
        let chunk = chunk.ok_or_else(|| Error::new(Code::Native, format!("an address at byte {at} of {}", self.bytes())))?;
        // SAFETY: as many bytes within the chunk (just checked), which is ours alone.
        unsafe { chunk.data.add(at - chunk.from).cast().write_unaligned(value) };
        Ok(())
    }

    /// Copies `runs` of them to the device and waits.
    ///
    /// # Errors
    /// `ERR_NATIVE` for bytes that either end lacks, `ERR_DEVICE` when the device fails.
    pub fn copy_in(&mut self, runs: &[Run], to: &Arc<DeviceBuffer>, stream: &Stream) -> Result<()> {
        self.copy(runs, to, stream, copy_in)
    }

    /// Copies `runs` of the device to them and waits.
    ///
    /// # Errors
    /// As [`Pages::copy_in`].
    pub fn copy_out(&mut self, runs: &[Run], from: &Arc<DeviceBuffer>, stream: &Stream) -> Result<()> {
        self.copy(runs, from, stream, copy_out)
    }

    fn copy(&mut self, runs: &[Run], other: &Arc<DeviceBuffer>, stream: &Stream, queue: Queue) -> Result<()> {
        let base = other.ptr().addr();
        let within = |at: usize, len: usize, bytes: usize| at.checked_add(len).is_some_and(|end| end <= bytes);
        // An address below the buffer is a place far beyond it.
        let fits = |run: &&Run| !within(run.from, run.len, self.bytes()) || !within(run.to.wrapping_sub(base), run.len, other.len());
        if let Some(run) = runs.iter().find(fits) {
            let what = format!("a copy of {run:?} between {} pinned bytes and {} of the device at {base}", self.bytes(), other.len());
            return Err(Error::new(Code::Native, what));
        }
        let done = other.device().event()?;
        let queue_all = || -> Result<()> {
            for run in runs {
                for (place, host, len) in self.pieces(run.from, run.len) {
                    // SAFETY: both places are within their memory, with `len` bytes behind them (checked), which lives until
                    // the copy is done: it is waited for below; streams order who reads it.
                    let status = unsafe { queue(other.ptr().add(run.to - base + place), host.as_ptr(), len, stream.raw()) };
                    check(status, "copying to or from the device")?;
                }
            }
            done.record(stream)?;
            done.wait()
        };
        queue_all().inspect_err(|_| {
            // The event does not speak for the copies, so the stream has to; a device that cannot tell may still be writing.
            if stream.wait().is_err() {
                self.lost = true;
                std::mem::forget(other.clone());
            }
        })
    }

    /// Where `len` bytes from byte `from` on lie, which is within: each piece's place among them, and how long it is.
    fn pieces(&self, from: usize, len: usize) -> impl Iterator<Item = (usize, NonNull<u8>, usize)> + '_ {
        let end = from + len;
        self.chunks.iter().filter_map(move |chunk| {
            let (start, stop) = (from.max(chunk.from), end.min(chunk.from + chunk.len));
            // SAFETY: `start` is within the chunk.
            (start < stop).then(|| (start - from, unsafe { chunk.data.add(start - chunk.from) }, stop - start))
        })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.lost {
            std::mem::forget(self.slab.clone());
            return;
        }
        lock(&self.slab.state).free.extend(self.numbers.iter().copied());
    }
}

/// Locks whatever happened to earlier holders: pages are consistent between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
