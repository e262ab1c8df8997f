//! Safetensors, read whole and checked before anything is believed.
//!
//! Format: u64 little-endian header length, JSON header (`name → {dtype, shape, data_offsets}`), data. Offsets count
//! from the end of the header.

use super::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::pace;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fmt;
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;

/// Largest header believed: ours are far below 1 MB, the format allows 100 MB.
const MAX_HEADER: u64 = 8 << 20;
const MAX_TENSORS: usize = 20_000;
const MAX_DIMENSIONS: usize = 8;
/// Bytes that are read and hashed at a time.
const PIECE: usize = 64 << 10;

/// One tensor of the file; `start .. end` are byte offsets into [`File::data`].
#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    start: usize,
    end: usize,
}

/// A checked file held in memory.
pub struct File {
    /// File name only, for messages.
    pub label: String,
    pub sha256: String,
    /// In the order of their data.
    pub tensors: Vec<Tensor>,
    /// Indices into `tensors`, in the order of the names.
    by_name: Vec<usize>,
    bytes: Box<dyn AsRef<[u8]> + Send + Sync>,
    data_start: usize,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("label", &self.label).field("tensors", &self.tensors.len()).finish_non_exhaustive()
    }
}

impl File {
    /// Reads, hashes and checks the file at `path`.
    ///
    /// # Errors
    /// `ERR_ADAPTER_NOT_FOUND`, `ERR_ADAPTER_TOO_LARGE`, or `ERR_ADAPTER_INVALID` naming the file and what is wrong.
    pub fn open(path: &Path, max_bytes: u64) -> Result<Self> {
        let shown = path.display();
        let fail = |e: std::io::Error| {
            let code = if e.kind() == std::io::ErrorKind::NotFound { Code::AdapterNotFound } else { Code::AdapterInvalid };
            Error::new(code, format!("{shown}: {e}"))
        };
        // Asked before opening: opening a pipe waits for its writer.
        if !std::fs::metadata(path).map_err(fail)?.is_file() {
            return Err(Error::new(Code::AdapterInvalid, format!("{shown}: expected a regular file")));
        }
        let mut file = std::fs::File::open(path).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        if size > max_bytes {
            return Err(Error::new(
                Code::AdapterTooLarge,
                format!("{shown}: expected at most {max_bytes} bytes, got {size}: raise the limit or use a smaller adapter"),
            ));
        }
        let mut bytes = usize::try_from(size).map_err(std::io::Error::other).and_then(Buffer::take).map_err(fail)?;
        let mut sha256 = Sha256::new();
        let mut changed = false;
        // Hashed while the processor's cache still holds it.
        for piece in bytes.chunks_mut(PIECE) {
            match file.read_exact(piece) {
                Ok(()) => {
                    sha256.update(&*piece);
                    pace::worked(piece.len());
                }
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                    changed = true;
                    break;
                }
                Err(e) => return Err(fail(e)),
            }
        }
        if changed || file.read(&mut [0]).map_err(fail)? > 0 {
            return Err(Error::new(Code::AdapterInvalid, format!("{shown}: the file changed while it was read: try again")));
        }
        let label = path.file_name().map_or_else(|| shown.to_string(), |name| name.to_string_lossy().into_owned());
        Self::check(label, Box::new(bytes), &sha256.finalize())
    }

    /// Checks bytes already in memory.
    ///
    /// # Errors
    /// `ERR_ADAPTER_INVALID` naming the file, the tensor and what was expected.
    pub fn parse(label: String, bytes: Vec<u8>) -> Result<Self> {
        let mut sha256 = Sha256::new();
        for piece in bytes.chunks(PIECE) {
            sha256.update(piece);
            pace::worked(piece.len());
        }
        Self::check(label, Box::new(bytes), &sha256.finalize())
    }

    fn check(label: String, held: Box<dyn AsRef<[u8]> + Send + Sync>, hash: &[u8]) -> Result<Self> {
        let bytes: &[u8] = (*held).as_ref();
        let invalid = |what: String| {
            Error::new(
                Code::AdapterInvalid,
                format!("{label}: {what}: save the adapter again with save_pretrained(safe_serialization=True)"),
            )
        };
        let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(invalid(format!("expected a safetensors header, got a file of {} bytes", bytes.len())));
        };
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER || length > rest.len() as u64 {
            return Err(invalid(format!(
                "header length {length} is out of range: expected at most {} (the file has {} bytes, the limit is {MAX_HEADER})",
                MAX_HEADER.min(rest.len() as u64),
                bytes.len()
            )));
        }
        let header = &rest[..usize::try_from(length).unwrap_or(usize::MAX)];
        if header.first() != Some(&b'{') {
            return Err(invalid("the header is not a JSON object".to_owned()));
        }
        let header: Header = serde_json::from_slice(header).map_err(|e| invalid(format!("header: {e}")))?;
        if header.tensors.len() > MAX_TENSORS {
            return Err(invalid(format!("expected at most {MAX_TENSORS} tensors, got {}", header.tensors.len())));
        }
        let data_start = 8 + usize::try_from(length).unwrap_or(usize::MAX);
        let tensors = check_ranges(header.tensors, bytes.len() - data_start).map_err(invalid)?;
        let mut sha256 = String::with_capacity(64);
        for byte in hash {
            let _ = write!(sha256, "{byte:02x}");
        }
        let mut by_name: Vec<usize> = (0..tensors.len()).collect();
        by_name.sort_unstable_by(|&a, &b| tensors[a].name.cmp(&tensors[b].name));
        Ok(Self { label, sha256, tensors, by_name, bytes: held, data_start })
    }

    #[must_use]
    pub fn size(&self) -> usize {
        self.held().len()
    }

    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        let at = self.by_name.binary_search_by(|&at| self.tensors[at].name.as_str().cmp(name)).ok()?;
        self.tensors.get(self.by_name[at])
    }

    /// The raw little-endian bytes of one of this file's tensors.
    #[must_use]
    pub fn data(&self, tensor: &Tensor) -> &[u8] {
        &self.held()[self.data_start + tensor.start..self.data_start + tensor.end]
    }

    fn held(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }
}

/// Bytes of an element, for the dtypes the format knows.
fn element_size(dtype: &str) -> Option<usize> {
    Some(match dtype {
        "F64" | "I64" | "U64" => 8,
        "F32" | "I32" | "U32" => 4,
        "F16" | "BF16" | "I16" | "U16" => 2,
        "I8" | "U8" | "BOOL" | "F8_E4M3" | "F8_E5M2" => 1,
        _ => return None,
    })
}

/// Every range inside the data, as long as shape × dtype says, and together covering it without gap or overlap.
fn check_ranges(entries: Vec<(String, Entry)>, data: usize) -> std::result::Result<Vec<Tensor>, String> {
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let [start, end] = entry.data_offsets;
        let size = element_size(&entry.dtype).ok_or_else(|| format!("tensor {name}: unknown dtype {}", entry.dtype))?;
        if entry.shape.len() > MAX_DIMENSIONS {
            return Err(format!("tensor {name}: expected at most {MAX_DIMENSIONS} dimensions, got {}", entry.shape.len()));
        }
        let wanted = entry.shape.iter().try_fold(size, |product, &n| product.checked_mul(n));
        if start > end || end > data {
            return Err(format!("tensor {name}: bytes {start}..{end} lie outside the data of {data} bytes (truncated file?)"));
        }
        if wanted != Some(end - start) {
            return Err(format!("tensor {name}: {} {:?} does not take the {} bytes of its range", entry.dtype, entry.shape, end - start));
        }
        tensors.push(Tensor { name, dtype: entry.dtype, shape: entry.shape, start, end });
    }
    tensors.sort_by_key(|tensor| (tensor.start, tensor.end));
    let mut covered = 0;
    for tensor in &tensors {
        if tensor.start != covered {
            return Err(format!("tensor {}: its bytes begin at {}, expected {covered} (gap or overlap)", tensor.name, tensor.start));
        }
        covered = tensor.end;
    }
    if covered != data {
        return Err(format!("the tensors cover {covered} of {data} data bytes"));
    }
    Ok(tensors)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// The header, with duplicate keys refused: JSON parsers that keep the last one would hide a tensor.
struct Header {
    tensors: Vec<(String, Entry)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut seen = HashSet::new();
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format!("duplicate key {name}")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<std::collections::HashMap<String, String>>()?;
                    } else {
                        tensors.push((name, map.next_value()?));
                    }
                }
                Ok(Header { tensors })
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}
