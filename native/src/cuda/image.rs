//! An adapter as kernels read it, wherever it will lie: its arrays in pinned memory, and where among them the addresses of
//! others stand, to be filled in for the place that the arrays get.

use super::memory::DeviceBuffer;
use super::plain::put;
use super::pool::Pooled;
use super::staging::{Run, Staging};
use super::stream::Stream;
use crate::error::{Code, Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// What an image is made of, without its bytes. The first array is the adapter's table, [`super::abi::Adapter`]: what is
/// reached at all is reached from there. Arrays begin at multiples of 64 bytes, one behind the other.
#[derive(Debug)]
pub struct ImageMap {
    arrays: Vec<Range<usize>>,
    fix_ups: Vec<FixUp>,
    bytes: usize,
    most_rank: usize,
    stands_alone: bool,
}

/// A pointer of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixUp {
    /// Byte of the image where it stands.
    pub at: usize,
    /// What it points to the beginning of.
    pub array: usize,
}

/// Where each array of an image lies on the device, as an address. Any place will do that is aligned to 16 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement(Vec<usize>);

impl ImageMap {
    /// # Errors
    /// `ERR_NATIVE` when arrays overlap or a fix-up lies outside or names none.
    pub fn new(arrays: Vec<Range<usize>>, fix_ups: Vec<FixUp>, most_rank: usize, stands_alone: bool) -> Result<Self> {
        let mut bytes = 0;
        for array in &arrays {
            if array.start < bytes || array.end < array.start {
                return Err(Error::new(Code::Native, format!("an image's array at {array:?} behind byte {bytes}")));
            }
            bytes = array.end;
        }
        let sound = |fix: &FixUp| fix.array < arrays.len() && fix.at.checked_add(size_of::<usize>()).is_some_and(|end| end <= bytes);
        if let Some(fix) = fix_ups.iter().find(|fix| !sound(fix)) {
            return Err(Error::new(Code::Native, format!("{fix:?} in an image of {bytes} bytes and {} arrays", arrays.len())));
        }
        Ok(Self { arrays, fix_ups, bytes, most_rank, stands_alone })
    }

    /// The bytes of each array within the image, ascending.
    #[must_use]
    pub fn arrays(&self) -> &[Range<usize>] {
        &self.arrays
    }

    /// From the first array to the end of the last.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Highest rank of a site, all modules together.
    #[must_use]
    pub fn most_rank(&self) -> usize {
        self.most_rank
    }

    /// Cannot be summed with others, nor weighted.
    #[must_use]
    pub fn stands_alone(&self) -> bool {
        self.stands_alone
    }

    /// What has to stand at which byte of the image for arrays that lie so.
    ///
    /// # Errors
    /// `ERR_NATIVE` for a placement of another image.
    pub fn addresses<'a>(&'a self, placement: &'a Placement) -> Result<impl Iterator<Item = (usize, usize)> + 'a> {
        self.check(placement)?;
        Ok(self.fix_ups.iter().map(|fix| (fix.at, placement.0[fix.array])))
    }

    /// The copies that bring the image there: arrays that keep their distance go in one.
    ///
    /// # Errors
    /// As [`ImageMap::addresses`].
    pub fn runs(&self, placement: &Placement) -> Result<Vec<Run>> {
        self.check(placement)?;
        let mut runs: Vec<Run> = Vec::new();
        for (array, &to) in self.arrays.iter().zip(&placement.0) {
            if array.is_empty() {
                continue;
            }
            if let Some(last) = runs.last_mut().filter(|last| to.checked_sub(last.to) == Some(array.start - last.from)) {
                last.len = array.end - last.from;
            } else {
                runs.push(Run { from: array.start, to, len: array.len() });
            }
        }
        Ok(runs)
    }

    fn check(&self, placement: &Placement) -> Result<()> {
        if placement.0.len() == self.arrays.len() {
            return Ok(());
        }
        Err(Error::new(Code::Native, format!("{} places for an image of {} arrays", placement.0.len(), self.arrays.len())))
    }
}

impl Placement {
    /// One address an array, in the order of [`ImageMap::arrays`].
    #[must_use]
    pub fn of(addresses: Vec<usize>) -> Self {
        Self(addresses)
    }

    /// All of the image in one piece from `base` on.
    #[must_use]
    pub fn contiguous(map: &ImageMap, base: usize) -> Self {
        Self(map.arrays.iter().map(|array| base + array.start).collect())
    }

    /// Of each array.
    #[must_use]
    pub fn addresses(&self) -> &[usize] {
        &self.0
    }

    /// Of the adapter's table.
    #[must_use]
    pub fn table(&self) -> usize {
        self.0.first().copied().unwrap_or(0)
    }
}

/// An image, its bytes in pinned memory.
pub struct Image {
    memory: Pooled,
    map: Arc<ImageMap>,
}

impl Image {
    /// # Errors
    /// `ERR_NATIVE` when the memory is shorter than the image.
    pub(super) fn of(memory: Pooled, map: ImageMap) -> Result<Self> {
        if memory.len() < map.bytes {
            return Err(Error::new(Code::Native, format!("an image of {} bytes in {}", map.bytes, memory.len())));
        }
        Ok(Self { memory, map: Arc::new(map) })
    }

    #[must_use]
    pub fn map(&self) -> &Arc<ImageMap> {
        &self.map
    }

    /// Brings it to `placement`, all of which is memory of `to`. Returns when it is there: the calling thread waits.
    ///
    /// # Errors
    /// `ERR_NATIVE` for a placement outside of `to` or of another image, `ERR_DEVICE` when the device fails.
    pub fn upload(self, placement: &Placement, to: &Arc<DeviceBuffer>, stream: &Stream) -> Result<()> {
        let Self { mut memory, map } = self;
        for (at, address) in map.addresses(placement)? {
            put(&mut memory, at, &[std::ptr::without_provenance::<u8>(address)]);
        }
        let runs = map.runs(placement)?;
        let (buffer, pool) = memory.into_parts().ok_or_else(|| Error::new(Code::Native, "the image's memory is gone"))?;
        let mut staging = Staging::of(buffer)?;
        staging.copy_in_runs(&runs, to, stream)?;
        pool.give(staging.into_buffer()?);
        Ok(())
    }
}
