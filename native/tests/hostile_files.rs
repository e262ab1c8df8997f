//! Property tests of what reads adapter files: no panic, no read out of range, memory within a multiple of the file.
//!
//! `PROPTEST_CASES` sets how many inputs each property gets (256 without it); a long run is `PROPTEST_CASES=400000`.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a panic")]

use loramux_native::adapters::patterns::first_matches;
use loramux_native::adapters::safetensors::File;
use loramux_native::error::Code;
use proptest::collection::vec;
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashSet;

/// Counts what the current thread holds, so that a property can bound it.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: usize, sign: isize) {
    // Threads that are ending have no counters left.
    let _ = HELD.try_with(|held| {
        held.set(held.get().saturating_add(sign.saturating_mul(isize::try_from(bytes).unwrap_or(isize::MAX))));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller's contract, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: the caller's contract, handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `act` returns, and the most bytes that it held at once beyond what was there before.
fn peak_of<T>(act: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = act();
    (result, usize::try_from(PEAK.get() - before).unwrap_or(0))
}

/// A header entry of ten bytes or more becomes a name, a dtype and a shape on the heap, some of them in growing lists.
const PEAK_PER_BYTE: usize = 16;
const PEAK_BESIDES: usize = 16 << 10;

/// Parses `bytes` and checks all that must hold, whatever they are. True when they were accepted.
fn check(bytes: &[u8]) -> Result<bool, TestCaseError> {
    let owned = bytes.to_vec();
    let (parsed, peak) = peak_of(|| File::parse("a.safetensors".to_owned(), owned));
    prop_assert!(peak <= PEAK_PER_BYTE * bytes.len() + PEAK_BESIDES, "{peak} bytes held for a file of {}", bytes.len());
    let file = match parsed {
        Ok(file) => file,
        Err(error) => {
            prop_assert_eq!(error.code, Code::AdapterInvalid);
            prop_assert!(error.message.starts_with("a.safetensors: "), "{}", error.message);
            return Ok(false);
        }
    };
    let header = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let data = &bytes[8 + header..];
    let mut names = HashSet::new();
    let mut covered = 0;
    for tensor in &file.tensors {
        prop_assert!(names.insert(&tensor.name), "{} twice", tensor.name);
        let found = file.data(tensor);
        // In file order, each where the one before ended: nothing is read twice, nothing is left out.
        prop_assert_eq!(found, &data[covered..covered + found.len()]);
        covered += found.len();
        let elements: usize = tensor.shape.iter().product();
        let element = found.len().checked_div(elements).unwrap_or(0);
        prop_assert_eq!(found.len(), elements * element);
        prop_assert!(element <= 8);
    }
    prop_assert_eq!(covered, data.len());
    Ok(true)
}

fn join(length: u64, header: &[u8], data: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes()[..], header, data].concat()
}

/// A number as an attacker picks it: small, or at an edge of 32 or 64 bits.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => 0..9u64,
        2 => 0..200u64,
        1 => prop::sample::select(vec![1 << 31, (1 << 32) - 1, 1 << 32, 1 << 52, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX]),
    ]
}

fn dtype() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["F64", "F32", "F16", "BF16", "U8", "F8_E4M3", "BOOL", "F99", "", "f32"])
}

#[derive(Debug, Clone)]
struct Entry {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    /// None: right behind the entry before, as long as the shape says.
    range: Option<(u64, u64)>,
}

fn entry() -> impl Strategy<Value = Entry> {
    let name = prop_oneof![8 => "[a-d]{1,2}", 1 => Just("__metadata__".to_owned()), 1 => "\\PC{0,8}"];
    let range = prop_oneof![4 => Just(None), 1 => (number(), number()).prop_map(Some)];
    (name, dtype(), vec(number(), 0..4), range).prop_map(|(name, dtype, shape, range)| Entry { name, dtype, shape, range })
}

fn size_of(entry: &Entry) -> u64 {
    let element = match entry.dtype {
        "F64" => 8,
        "F32" => 4,
        "F16" | "BF16" => 2,
        _ => 1,
    };
    entry.shape.iter().fold(element, |product: u64, &n| product.saturating_mul(n))
}

/// A file that is right but for what the entries themselves have wrong; at most 4 KB of data.
fn file_of(entries: &[Entry]) -> Vec<u8> {
    let mut end = 0u64;
    let fields: Vec<String> = entries
        .iter()
        .map(|entry| {
            let (start, stop) = entry.range.unwrap_or_else(|| (end, end.saturating_add(size_of(entry))));
            end = stop;
            let shape: Vec<String> = entry.shape.iter().map(u64::to_string).collect();
            let name = serde_json::to_string(&entry.name).unwrap();
            format!(r#"{name}:{{"dtype":"{}","shape":[{}],"data_offsets":[{start},{stop}]}}"#, entry.dtype, shape.join(","))
        })
        .collect();
    let header = format!("{{{}}}", fields.join(","));
    let data = vec![7; usize::try_from(end.min(4096)).unwrap()];
    join(header.len() as u64, header.as_bytes(), &data)
}

/// One change of a file's bytes; positions are taken modulo its length.
#[derive(Debug, Clone)]
enum Edit {
    Set(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Repeat(usize, usize),
    Length(u64),
}

fn edit() -> impl Strategy<Value = Edit> {
    let fragment = prop_oneof![
        vec(any::<u8>(), 1..5),
        prop::sample::select(vec!["{", "}", "[", "]", ",", ":", "\"", "-", "9", "1e9", "null", "\\u0000", "\"a\":"])
            .prop_map(|text: &str| text.as_bytes().to_vec()),
    ];
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (any::<usize>(), fragment).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (any::<usize>(), 1..40usize).prop_map(|(at, n)| Edit::Remove(at, n)),
        (any::<usize>(), 1..80usize).prop_map(|(at, n)| Edit::Repeat(at, n)),
        number().prop_map(Edit::Length),
    ]
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit) {
    if bytes.is_empty() {
        return;
    }
    let place = |at: usize| at % bytes.len();
    let stretch = |at: usize, n: usize| place(at)..(place(at) + n).min(bytes.len());
    match edit {
        Edit::Set(at, byte) => {
            let at = place(*at);
            bytes[at] = *byte;
        }
        Edit::Insert(at, new) => {
            let at = place(*at);
            drop(bytes.splice(at..at, new.iter().copied()));
        }
        Edit::Remove(at, n) => drop(bytes.drain(stretch(*at, *n))),
        Edit::Repeat(at, n) => {
            let again = bytes[stretch(*at, *n)].to_vec();
            let at = place(*at);
            drop(bytes.splice(at..at, again));
        }
        Edit::Length(value) => {
            for (byte, new) in bytes.iter_mut().zip(value.to_le_bytes()) {
                *byte = new;
            }
        }
    }
}

/// The header's stated length follows what edits did to the file, so that they reach the JSON parser and the checks.
fn restate_length(bytes: &mut [u8], data: usize) {
    let length = bytes.len().saturating_sub(8 + data) as u64;
    for (byte, new) in bytes.iter_mut().zip(length.to_le_bytes()) {
        *byte = new;
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..200), length in number()) {
        check(&bytes)?;
        check(&join(length, &[b"{", &bytes[..]].concat(), &[]))?;
    }

    #[test]
    fn headers_of_arbitrary_entries(entries in vec(entry(), 0..6)) {
        check(&file_of(&entries))?;
    }

    #[test]
    fn edited_files(entries in vec(entry(), 1..4), edits in vec(edit(), 1..5), restated in any::<bool>()) {
        let mut bytes = file_of(&entries);
        let header = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        let data = bytes.len() - 8 - header;
        for edit in &edits {
            apply(&mut bytes, edit);
        }
        if restated {
            restate_length(&mut bytes, data);
        }
        check(&bytes)?;
    }

    #[test]
    fn module_patterns(
        patterns in vec(prop_oneof!["[a-z.*+?|()\\[\\]{}\\\\^$0-9,d]{0,12}", "(\\(|a|\\)|\\{[0-9]{1,4}\\}|[*+?|.]){0,12}"], 0..4),
        names in vec("[a-z.0-9]{0,12}", 0..4),
    ) {
        let (matched, peak) = peak_of(|| first_matches(&patterns, &names));
        prop_assert!(peak <= 64 << 20, "{peak} bytes held for {patterns:?}");
        match matched {
            Ok(found) => {
                prop_assert_eq!(found.len(), names.len());
                prop_assert!(found.iter().all(|&i| i >= -1 && i < i32::try_from(patterns.len()).unwrap()));
            }
            Err(error) => prop_assert_eq!(error.code, Code::AdapterInvalid),
        }
    }
}

#[test]
fn the_generators_make_good_files_too() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut files = || file_of(&vec(entry(), 0..6).new_tree(&mut runner).unwrap().current());
    let accepted = (0..500).filter(|_| check(&files()).unwrap()).count();
    assert!((50..450).contains(&accepted), "{accepted} of 500 files accepted");
}
