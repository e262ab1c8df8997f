//! Every kernel on every instruction set of this CPU against a scalar float64 reference, and against itself: a row's
//! result must not depend on the rows beside it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::float_cmp,
    reason = "test code: a failure is a panic, sizes are small"
)]

mod common;

use common::{Rng, bits, bytes_of, round_to};
use loramux_native::kernels::ahead::Jump;
use loramux_native::kernels::attention::{Attend, PAGE};
use loramux_native::kernels::dispatch::{Kernels, available};
use loramux_native::kernels::lora::{Expand, GROUP, PANEL, Shrink, Stored};
use loramux_native::kernels::nibbles::{CHUNK, STEP, block_inputs};
use loramux_native::kernels::simd::{Dtype, LANES, Portable, Simd};

/// Largest error allowed, as a multiple of the sum of the absolute values of what is added up.
mod tolerance {
    pub const SHRINK: f64 = 1e-6;
    pub const EXPAND: f64 = 2e-6;
    pub const ATTEND: f64 = 2e-6;
    pub const GATED_SILU: f64 = 5e-7;
    pub const EXP: f64 = 2e-7;
}

const STORED: [Stored; 5] = [Stored::Float(Dtype::F32), Stored::Float(Dtype::F16), Stored::Float(Dtype::Bf16), Stored::Int8, Stored::Int4];
const KV_DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];
const RANKS: [usize; 8] = [1, 2, 3, 8, 16, 17, 64, 256];
const WIDTHS: [usize; 8] = [1, 7, 16, 24, 33, 576, 600, 1536];
const ROWS: [usize; 7] = [1, 2, 3, 4, 7, 16, 33];
/// Marks what no kernel may write.
const GUARD: f32 = 12345.0;

fn sets() -> Vec<&'static Kernels> {
    let sets = available();
    for name in ["avx512vnni", "avx512", "avx2vnni", "avx2", "portable"] {
        if !sets.iter().any(|set| set.name == name) {
            println!("this CPU lacks {name}: its kernels are not tested here");
        }
    }
    assert_eq!(sets.last().unwrap().name, "portable");
    sets
}

/// Largest |found − wanted| / magnitude seen, so that a failure shows how far off the kernel is.
#[derive(Default)]
struct Worst(f64);

impl Worst {
    fn see(&mut self, found: f32, wanted: f64, magnitude: f64, allowed: f64, what: &dyn Fn() -> String) {
        let error = (f64::from(found) - wanted).abs();
        assert!(error <= allowed * magnitude + 1e-37, "{}: got {found}, expected {wanted} ± {}", what(), allowed * magnitude);
        if magnitude > 0.0 {
            self.0 = self.0.max(error / magnitude);
        }
    }
}

/// `value` of −1 … 1 as an element holds it: int8 elements are whole numbers up to 127, int4 elements −8 … 7.
fn held(stored: Stored, value: f32) -> f32 {
    match stored {
        Stored::Float(dtype) => round_to(dtype, value),
        Stored::Int8 => (value * 127.0).round(),
        Stored::Int4 => (value * 8.0).round().min(7.0),
    }
}

/// `values` that share a step, as int4's kernels round them: whole numbers up to 127, and the step.
fn as_bytes(values: &[f32]) -> (Vec<f64>, f64) {
    let largest = values.iter().fold(0f32, |top, v| top.max(v.abs()));
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    (values.iter().map(|v| f64::from((v * inverse).round_ties_even())).collect(), f64::from(largest / 127.0))
}

/// Elements one behind the other; not for int4.
fn packed_elements(stored: Stored, values: &[f32]) -> Vec<u8> {
    match stored {
        Stored::Float(dtype) => bytes_of(dtype, values),
        Stored::Int8 | Stored::Int4 => values.iter().map(|&v| (v as i8).cast_unsigned()).collect(),
    }
}

/// A vector of bytes whose low and high halves are codes of `low` and `high`, −8 … 7, by place.
fn nibbles_of(low: impl Fn(usize) -> f32, high: impl Fn(usize) -> f32) -> [u8; 4 * LANES] {
    let code = |value: f32| (value as i8 + 8).cast_unsigned();
    std::array::from_fn(|at| code(low(at)) | code(high(at)) << 4)
}

/// Bytes of A [rank, width] as `Shrink::a` wants them; with scales, `a` becomes what they make of it.
fn packed_a(rng: &mut Rng, stored: Stored, width: usize, a: &mut [f32]) -> Vec<u8> {
    let mut packed = Vec::new();
    let rank = a.len() / width;
    for group in a.chunks_mut(GROUP * width) {
        if stored == Stored::Int4 {
            pack_group_of_nibbles(rng, width, group, &mut packed);
            continue;
        }
        // Vectors of the group's rows alternate.
        let mut vectors = Vec::new();
        for c in (0..width).step_by(LANES) {
            for row in group.chunks_exact(width) {
                vectors.extend_from_slice(&row[c..width.min(c + LANES)]);
                vectors.resize(vectors.len() + (c + LANES).saturating_sub(width), 0.0);
            }
        }
        packed.extend(packed_elements(stored, &vectors));
    }
    assert_eq!(packed.len(), stored.a_size(rank, width));
    packed
}

fn pack_group_of_nibbles(rng: &mut Rng, width: usize, group: &mut [f32], packed: &mut Vec<u8>) {
    let block = block_inputs(width);
    for first in (0..width).step_by(block) {
        let end = width.min(first + block);
        let scales: Vec<f32> = rng.floats(LANES, 0.3).iter().map(|&v| round_to(Dtype::Bf16, v)).collect();
        packed.extend(bytes_of(Dtype::Bf16, &scales));
        for c in (first..end).step_by(STEP) {
            // What lies past the end of a row or the last row may be anything.
            let code = |c: usize, at: usize| {
                let (row, input) = (at / LANES, c + at % LANES);
                if input < end { group.get(row * width + input).copied().unwrap_or(-3.0) } else { 5.0 }
            };
            packed.extend(nibbles_of(|at| code(c, at), |at| code(c + LANES, at)));
        }
        for (j, row) in group.chunks_exact_mut(width).enumerate() {
            row[first..end].iter_mut().enumerate().for_each(|(c, value)| *value *= scales[4 * j + c % LANES / 4]);
        }
    }
}

/// One shrink: x rows lie apart with NaN between, A packed in groups of whole vectors.
struct ShrinkCase {
    stored: Stored,
    rank: usize,
    width: usize,
    rows: usize,
    x: Vec<f32>,
    x_stride: usize,
    a: Vec<f32>,
    packed: Vec<u8>,
    scale: Vec<f32>,
}

const STRENGTH: f32 = 0.75;

impl ShrinkCase {
    fn new(rng: &mut Rng, stored: Stored, rank: usize, width: usize, rows: usize) -> Self {
        let x_stride = width + 3;
        let mut x = vec![f32::NAN; rows * x_stride];
        for row in x.chunks_exact_mut(x_stride) {
            row[..width].copy_from_slice(&rng.floats(width, 1.0));
        }
        let mut a: Vec<f32> = rng.floats(rank * width, 1.0).iter().map(|&v| held(stored, v)).collect();
        let packed = packed_a(rng, stored, width, &mut a);
        Self { stored, rank, width, rows, x, x_stride, packed, a, scale: rng.floats(rank, 2.0) }
    }

    /// h of rows `from .. from + rows` for adapter rows `ranks`, everything else still GUARD.
    fn run(&self, set: &Kernels, from: usize, rows: usize, ranks: (usize, usize)) -> Vec<f32> {
        let h_stride = self.rank + 2;
        let mut h = vec![GUARD; rows * h_stride];
        let args = Shrink {
            x: self.x[from * self.x_stride..].as_ptr(),
            x_stride: self.x_stride,
            rows,
            width: self.width,
            a: self.packed.as_ptr(),
            stored: self.stored,
            ranks,
            scale: self.scale.as_ptr(),
            strength: STRENGTH,
            h: h.as_mut_ptr(),
            h_stride,
        };
        // SAFETY: the buffers have the shapes above; `available` gave the set.
        unsafe { (set.shrink)(&args) };
        h
    }

    fn reference(&self) -> Vec<(f64, f64)> {
        let mut out = Vec::with_capacity(self.rows * self.rank);
        for x in self.x.chunks_exact(self.x_stride) {
            let x: Vec<f64> = match self.stored {
                Stored::Int4 => x[..self.width]
                    .chunks(block_inputs(self.width))
                    .flat_map(|x| {
                        let (bytes, step) = as_bytes(x);
                        bytes.into_iter().map(move |byte| byte * step)
                    })
                    .collect(),
                _ => x.iter().map(|&x| f64::from(x)).collect(),
            };
            for (a, scale) in self.a.chunks_exact(self.width).zip(&self.scale) {
                let (mut sum, mut size) = (0.0, 0.0);
                for (x, a) in x.iter().zip(a) {
                    let term = x * f64::from(*a);
                    sum += term;
                    size += term.abs();
                }
                let factor = f64::from(*scale) * f64::from(STRENGTH);
                out.push((sum * factor, size * factor.abs()));
            }
        }
        out
    }
}

#[test]
fn shrink_matches_the_reference_and_no_row_depends_on_its_neighbours() {
    let sets = sets();
    let mut rng = Rng(1);
    let mut worst = Worst::default();
    for (stored, rank, width, rows) in grid() {
        let case = ShrinkCase::new(&mut rng, stored, rank, width, rows);
        let reference = case.reference();
        for set in &sets {
            let what = || format!("{} shrink {stored:?} rank {rank} width {width} rows {rows}", set.name);
            let whole = case.run(set, 0, rows, (0, rank));
            for (row, wanted) in whole.chunks_exact(rank + 2).zip(reference.chunks_exact(rank)) {
                for (found, (wanted, size)) in row.iter().zip(wanted) {
                    worst.see(*found, *wanted, *size, tolerance::SHRINK, &what);
                }
                assert_eq!(row[rank..], [GUARD; 2], "{}: wrote past the rank", what());
            }
            for (i, row) in whole.chunks_exact(rank + 2).enumerate() {
                assert_eq!(bits(row), bits(&case.run(set, i, 1, (0, rank))), "{}: row {i} alone", what());
            }
            let cut = rng.below(rank / GROUP + 1) * GROUP;
            let (low, high) = (case.run(set, 0, rows, (0, cut)), case.run(set, 0, rows, (cut, rank)));
            for (i, found) in whole.iter().enumerate() {
                let j = i % (rank + 2);
                let (part, other) = if j < cut { (low[i], high[i]) } else { (high[i], low[i]) };
                assert_eq!(part.to_bits(), found.to_bits(), "{}: adapter rows cut at {cut}", what());
                assert_eq!(other, GUARD, "{}: wrote outside its adapter rows", what());
            }
        }
    }
    println!("shrink: largest relative error {:.2e}", worst.0);
}

#[test]
fn rounding_to_bytes_hides_no_nan_and_no_infinity() {
    let mut rng = Rng(12);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 17, 400, 575] {
            let mut shrink = ShrinkCase::new(&mut rng, Stored::Int4, 8, 576, 5);
            shrink.x[2 * shrink.x_stride + at] = bad;
            let mut expand = ExpandCase::new(&mut rng, Stored::Int4, 40, 70, 5, false, false);
            expand.h[2 * (40 + GAP) + at % 40] = bad;
            for set in sets() {
                for (i, row) in shrink.run(set, 0, 5, (0, 8)).chunks_exact(8 + 2).enumerate() {
                    assert!(row[..8].iter().all(|h| h.is_finite() == (i != 2)), "{}: row {i} of h with {bad} at {at}: {row:?}", set.name);
                }
                for (i, row) in expand.run(set, 0, 5, &[(0, 3)]).chunks_exact(70 + GAP).enumerate() {
                    assert!(row[..70].iter().all(|y| y.is_finite() == (i != 2)), "{}: row {i} of y with {bad}: {row:?}", set.name);
                }
            }
        }
    }
}

struct ExpandCase {
    stored: Stored,
    rank: usize,
    width: usize,
    h: Vec<f32>,
    /// f32 [width, rank], as PEFT stores B: what a scale multiplies, if there are scales.
    b: Vec<f32>,
    /// f32 [panels, scales of a panel]; ones if there are none.
    scales: Vec<f32>,
    packed: Vec<u8>,
    y: Vec<f32>,
    gain: Option<Vec<f32>>,
    offset: Option<Vec<f32>>,
}

/// h and y rows lie this much farther apart than they are long.
const GAP: usize = 5;

impl ExpandCase {
    fn new(rng: &mut Rng, stored: Stored, rank: usize, width: usize, rows: usize, gain: bool, offset: bool) -> Self {
        let b: Vec<f32> = rng.floats(rank * width, 1.0).iter().map(|&v| held(stored, v)).collect();
        let element = |n: usize, j: usize, outside: f32| if n < width && j < rank { b[n * rank + j] } else { outside };
        // Int8 has one for each adapter row of each panel, int4 one for columns n and 16 + n of each chunk of adapter rows.
        let per_panel = if stored == Stored::Int4 { rank.div_ceil(CHUNK) * LANES } else { rank };
        let mut scales = vec![1.0; width.div_ceil(PANEL) * per_panel];
        if !matches!(stored, Stored::Float(_)) {
            scales = rng.floats(scales.len(), 0.02).iter().map(|&v| round_to(Dtype::Bf16, v)).collect();
        }
        let mut packed = Vec::new();
        for panel in 0..width.div_ceil(PANEL) {
            let first = panel * PANEL;
            let scales = bytes_of(Dtype::Bf16, &scales[panel * per_panel..][..per_panel]);
            if stored == Stored::Int4 {
                for j in (0..rank).step_by(4) {
                    if j % CHUNK == 0 {
                        packed.extend(&scales[j / CHUNK * 32..][..32]);
                    }
                    let code = |n: usize, at: usize| element(first + n + at / 4, j + at % 4, 6.0);
                    packed.extend(nibbles_of(|at| code(0, at), |at| code(LANES, at)));
                }
            } else {
                if stored == Stored::Int8 {
                    packed.extend(scales);
                }
                let elements: Vec<f32> = (0..rank * PANEL).map(|at| element(first + at % PANEL, at / PANEL, 0.0)).collect();
                packed.extend(packed_elements(stored, &elements));
            }
        }
        assert_eq!(packed.len(), stored.b_size(width, rank));
        let apart = |rng: &mut Rng, columns: usize, gap: f32| {
            let mut out = vec![gap; rows * (columns + GAP)];
            for row in out.chunks_exact_mut(columns + GAP) {
                row[..columns].copy_from_slice(&rng.floats(columns, 1.0));
            }
            out
        };
        Self {
            stored,
            rank,
            width,
            h: apart(rng, rank, f32::NAN),
            b,
            scales,
            packed,
            y: apart(rng, width, GUARD),
            gain: gain.then(|| rng.floats(width, 1.5)),
            offset: offset.then(|| rng.floats(width, 1.5)),
        }
    }

    fn run(&self, set: &Kernels, from: usize, rows: usize, panels: &[(usize, usize)]) -> Vec<f32> {
        let stride = self.width + GAP;
        let mut y = self.y[from * stride..(from + rows) * stride].to_vec();
        for &panels in panels {
            let args = Expand {
                h: self.h[from * (self.rank + GAP)..].as_ptr(),
                h_stride: self.rank + GAP,
                rows,
                rank: self.rank,
                b: self.packed.as_ptr(),
                stored: self.stored,
                jump: Jump { from: self.packed.as_ptr(), to: self.h.as_ptr().cast() },
                panels,
                width: self.width,
                y: y.as_mut_ptr(),
                y_stride: stride,
                gain: self.gain.as_ref().map_or(std::ptr::null(), Vec::as_ptr),
                offset: self.offset.as_ref().map_or(std::ptr::null(), Vec::as_ptr),
                strength: STRENGTH,
            };
            // SAFETY: the buffers have the shapes above; `available` gave the set.
            unsafe { (set.expand)(&args) };
        }
        y
    }

    fn reference(&self, i: usize, n: usize) -> (f64, f64) {
        let mut sum = f64::from(self.y[i * (self.width + GAP) + n]);
        let mut size = sum.abs();
        let h = &self.h[i * (self.rank + GAP)..][..self.rank];
        let per_panel = self.scales.len() / self.width.div_ceil(PANEL);
        let scales = &self.scales[n / PANEL * per_panel..][..per_panel];
        let scaled: Vec<f64> = match self.stored {
            Stored::Int4 => {
                let chunks = h.chunks(CHUNK).zip(scales.chunks(LANES)).map(|(h, scales)| (as_bytes(h), f64::from(scales[n % LANES])));
                chunks.flat_map(|((bytes, step), scale)| bytes.into_iter().map(move |byte| byte * step * scale)).collect()
            }
            _ => h.iter().zip(scales).map(|(h, scale)| f64::from(*h) * f64::from(*scale)).collect(),
        };
        for (h, b) in scaled.iter().zip(&self.b[n * self.rank..]) {
            let term = h * f64::from(*b);
            sum += term;
            size += term.abs();
        }
        let gain = self.gain.as_ref().map_or(1.0, |g| f64::from(g[n]));
        let offset = self.offset.as_ref().map_or(0.0, |o| f64::from(STRENGTH) * f64::from(o[n]));
        (sum * gain + offset, size * gain.abs() + offset.abs())
    }
}

#[test]
fn expand_matches_the_reference_and_no_row_depends_on_its_neighbours() {
    let sets = sets();
    let mut rng = Rng(2);
    let mut worst = Worst::default();
    let without_factors = ROWS.map(|rows| (Stored::Float(Dtype::F16), 0, 33, rows));
    for (i, (stored, rank, width, rows)) in grid().into_iter().chain(without_factors).enumerate() {
        let case = ExpandCase::new(&mut rng, stored, rank, width, rows, i % 3 == 0, i % 5 < 2);
        let panels = width.div_ceil(PANEL);
        let reference: Vec<_> = (0..rows * width).map(|at| case.reference(at / width, at % width)).collect();
        for set in &sets {
            let what = || format!("{} expand {stored:?} rank {rank} width {width} rows {rows}", set.name);
            let whole = case.run(set, 0, rows, &[(0, panels)]);
            for (row, wanted) in whole.chunks_exact(width + GAP).zip(reference.chunks_exact(width)) {
                for (found, (wanted, size)) in row.iter().zip(wanted) {
                    worst.see(*found, *wanted, *size, tolerance::EXPAND, &what);
                }
                assert_eq!(row[width..], [GUARD; GAP], "{}: wrote past the module", what());
            }
            for (i, row) in whole.chunks_exact(width + GAP).enumerate() {
                assert_eq!(bits(row), bits(&case.run(set, i, 1, &[(0, panels)])), "{}: row {i} alone", what());
            }
            let cut = rng.below(panels + 1);
            let parts = case.run(set, 0, rows, &[(cut, panels), (0, cut)]);
            assert_eq!(bits(&whole), bits(&parts), "{}: panels cut at {cut}", what());
        }
    }
    println!("expand: largest relative error {:.2e}", worst.0);
}

fn grid() -> Vec<(Stored, usize, usize, usize)> {
    let mut cases = Vec::new();
    for stored in STORED {
        for rank in RANKS {
            for width in WIDTHS {
                cases.extend(ROWS.map(|rows| (stored, rank, width, rows)));
            }
        }
    }
    cases
}

/// Keys and values of one head in pages, everything that is not visible NaN.
struct Paged {
    dim: usize,
    dtype: Dtype,
    keys: Vec<u8>,
    values: Vec<u8>,
    table: Vec<i32>,
}

impl Paged {
    /// `k`, `v` f32 [ctx, dim], numbers of `dtype`; positions before `begin` are garbage as well.
    fn new(rng: &mut Rng, dtype: Dtype, k: &[f32], v: &[f32], dim: usize, begin: usize) -> Self {
        let ctx = k.len() / dim;
        let padded = dim.next_multiple_of(LANES);
        let pages = ctx.div_ceil(PAGE);
        let pool = pages + 3;
        let mut free: Vec<i32> = (0..pool as i32).collect();
        let table: Vec<i32> = (0..pages).map(|_| free.swap_remove(rng.below(free.len()))).collect();
        let mut keys = vec![f32::NAN; pool * dim * PAGE];
        let mut values = vec![f32::NAN; pool * padded * PAGE];
        for position in begin..ctx {
            let (page, slot) = (table[position / PAGE] as usize, position % PAGE);
            for d in 0..dim {
                keys[(page * dim + d) * PAGE + slot] = k[position * dim + d];
                values[(page * PAGE + slot) * padded + d] = v[position * dim + d];
            }
        }
        Self { dim, dtype, keys: bytes_of(dtype, &keys), values: bytes_of(dtype, &values), table }
    }

    fn attend(&self, set: &Kernels, q: &[f32], begin: usize, end: usize, scale: f32) -> Vec<f32> {
        let group = q.len() / self.dim;
        let padded_dim = self.dim.next_multiple_of(LANES);
        let mut out = q.to_vec();
        let mut scores = vec![GUARD; group * end.next_multiple_of(PAGE) + 1];
        let args = Attend {
            q: out.as_mut_ptr(),
            group,
            dim: self.dim,
            padded_dim,
            dtype: self.dtype,
            keys: self.keys.as_ptr(),
            key_stride: self.dim * PAGE,
            values: self.values.as_ptr(),
            value_stride: padded_dim * PAGE,
            block_table: self.table.as_ptr(),
            begin,
            end,
            scale,
            scores: scores.as_mut_ptr(),
        };
        // SAFETY: the buffers have the documented shapes; `available` gave the set.
        unsafe { (set.attend)(&args) };
        assert_eq!(scores.last(), Some(&GUARD), "wrote past its scratch");
        out
    }
}

/// Numbers of `dtype` within ±1: what is added up is then exactly what the kernel reads.
fn rounded(rng: &mut Rng, dtype: Dtype, n: usize) -> Vec<f32> {
    rng.floats(n, 1.0).into_iter().map(|v| round_to(dtype, v)).collect()
}

fn attention_reference(q: &[f32], k: &[f32], v: &[f32], begin: usize, end: usize, scale: f32) -> Vec<f64> {
    let dim = q.len();
    let score = |t: usize| (0..dim).map(|d| f64::from(q[d]) * f64::from(k[t * dim + d])).sum::<f64>() * f64::from(scale);
    let scores: Vec<f64> = (begin..end).map(score).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    let column = |d: usize| weights.iter().zip(begin..).map(|(w, t)| w * f64::from(v[t * dim + d])).sum::<f64>() / total;
    (0..dim).map(column).collect()
}

#[test]
fn attention_matches_the_reference_whatever_group_page_order_and_garbage() {
    let sets = sets();
    let mut rng = Rng(3);
    let mut worst = Worst::default();
    for (dim, dtype) in [8, 24, 64, 80, 128].into_iter().flat_map(|dim| KV_DTYPES.map(|dtype| (dim, dtype))) {
        for (n, end) in [1, 2, 15, 16, 17, 31, 32, 33, 47, 100, 160, 257, 300].into_iter().enumerate() {
            let (k, v) = (rounded(&mut rng, dtype, end * dim), rounded(&mut rng, dtype, end * dim));
            let group = 1 + (n + dim / 8) % 7;
            let q = rng.floats(group * dim, 3.0);
            let scale = 1.0 / (dim as f32).sqrt();
            for window in [end, 1, 5, 16, 40] {
                let begin = end.saturating_sub(window);
                let paged = Paged::new(&mut rng, dtype, &k, &v, dim, begin);
                let moved = Paged::new(&mut rng, dtype, &k, &v, dim, begin);
                for set in &sets {
                    let what = || format!("{} attend {dtype:?} dim {dim} positions {begin}..{end} group {group}", set.name);
                    let found = paged.attend(set, &q, begin, end, scale);
                    for (q, found) in q.chunks_exact(dim).zip(found.chunks_exact(dim)) {
                        for (found, wanted) in found.iter().zip(attention_reference(q, &k, &v, begin, end, scale)) {
                            worst.see(*found, wanted, 1.0, tolerance::ATTEND, &what);
                        }
                        let alone = paged.attend(set, q, begin, end, scale);
                        assert_eq!(bits(found), bits(&alone), "{}: a head alone", what());
                    }
                    assert_eq!(bits(&found), bits(&moved.attend(set, &q, begin, end, scale)), "{}: pages elsewhere", what());
                }
            }
        }
    }
    println!("attend: largest error {:.2e} for values within ±1", worst.0);
}

#[test]
fn attention_of_every_group_size_and_context() {
    let sets = sets();
    let mut rng = Rng(4);
    let dim = 16;
    let mut worst = Worst::default();
    for end in 1..=300 {
        let dtype = KV_DTYPES[end / 7 % 3];
        let (k, v) = (rounded(&mut rng, dtype, end * dim), rounded(&mut rng, dtype, end * dim));
        let group = 1 + end % 7;
        let q = rng.floats(group * dim, 2.0);
        let paged = Paged::new(&mut rng, dtype, &k, &v, dim, 0);
        for set in &sets {
            let found = paged.attend(set, &q, 0, end, 0.25);
            for (q, found) in q.chunks_exact(dim).zip(found.chunks_exact(dim)) {
                for (found, wanted) in found.iter().zip(attention_reference(q, &k, &v, 0, end, 0.25)) {
                    worst.see(*found, wanted, 1.0, tolerance::ATTEND, &|| format!("{} attend {dtype:?} {end} group {group}", set.name));
                }
            }
        }
    }
}

#[test]
fn attention_hands_nan_on_instead_of_hiding_it() {
    let mut rng = Rng(5);
    let (dim, end) = (8, 20);
    let (k, v) = (rng.floats(end * dim, 1.0), rng.floats(end * dim, 1.0));
    let paged = Paged::new(&mut rng, Dtype::F32, &k, &v, dim, 0);
    let mut q = rng.floats(2 * dim, 1.0);
    q[3] = f32::NAN;
    for set in sets() {
        let out = paged.attend(set, &q, 0, end, 1.0);
        assert!(out[..dim].iter().all(|v| v.is_nan()), "{}: {:?}", set.name, &out[..dim]);
        assert!(out[dim..].iter().all(|v| v.is_finite()), "{}: the other head", set.name);
    }
}

#[test]
fn gated_silu_matches_the_reference() {
    let mut rng = Rng(6);
    let mut worst = Worst::default();
    for width in [1, 2, 7, 15, 16, 17, 24, 33, 576, 1536] {
        let gate: Vec<f32> = (0..width).map(|i| rng.float() * [1.0, 20.0, 120.0][i % 3]).collect();
        let up = rng.floats(width, 3.0);
        for set in sets() {
            let mut out = vec![GUARD; width + 1];
            // SAFETY: all three hold `width` floats; `available` gave the set.
            unsafe { (set.gated_silu)(gate.as_ptr(), up.as_ptr(), out.as_mut_ptr(), width) };
            for i in 0..width {
                let (g, u) = (f64::from(gate[i]), f64::from(up[i]));
                let wanted = g / (1.0 + (-g).exp()) * u;
                let what = || format!("{} gated_silu width {width} of {g}, {u}", set.name);
                // Near the clamp of exp the result is below any normal float.
                let size = wanted.abs() + if g < -80.0 { 1e-29 } else { 0.0 };
                worst.see(out[i], wanted, size, tolerance::GATED_SILU, &what);
            }
            assert_eq!(out[width], GUARD, "{}: wrote past the row", set.name);
        }
    }
    println!("gated_silu: largest relative error {:.2e}", worst.0);
}

#[test]
fn gated_silu_of_extremes_tends_to_its_limits() {
    for set in sets() {
        let gate = [-1e30f32, 1e30, f32::NAN, 0.0, -89.0];
        let mut out = [GUARD; 5];
        // SAFETY: five floats each; `available` gave the set.
        unsafe { (set.gated_silu)(gate.as_ptr(), [1.0f32; 5].as_ptr(), out.as_mut_ptr(), 5) };
        assert_eq!((out[0], out[1], out[3], out[4]), (0.0, 1e30, 0.0, 0.0), "{}", set.name);
        assert!(out[2].is_nan(), "{}", set.name);
    }
}

fn exp<S: Simd>(x: &[f32; LANES]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    // SAFETY: both hold LANES floats; the caller checked the CPU.
    unsafe { S::store(out.as_mut_ptr(), S::exp(S::load(x.as_ptr()))) };
    out
}

type Exp = fn(&[f32; LANES]) -> [f32; LANES];

/// exp of each set that this CPU has.
fn exps() -> Vec<(&'static str, Exp)> {
    let mut out: Vec<(&'static str, Exp)> = vec![("portable", exp::<Portable>)];
    #[cfg(target_arch = "x86_64")]
    for set in sets() {
        match set.name {
            "avx512" => out.push(("avx512", exp::<loramux_native::kernels::x86::Avx512>)),
            "avx2" => out.push(("avx2", exp::<loramux_native::kernels::x86::Avx2>)),
            _ => (),
        }
    }
    out
}

#[test]
fn exp_is_as_accurate_as_it_says() {
    for (name, exp) in exps() {
        let mut worst = Worst::default();
        let steps = 40_000 * LANES;
        for block in 0..steps / LANES {
            let at = |i: usize| (-87.3 + (88.3 + 87.3) * ((block * LANES + i) as f64 / (steps - 1) as f64)) as f32;
            let x: [f32; LANES] = std::array::from_fn(at);
            for (x, found) in x.iter().zip(exp(&x)) {
                let wanted = f64::from(*x).exp();
                worst.see(found, wanted, wanted, tolerance::EXP, &|| format!("{name} exp({x})"));
            }
        }
        println!("{name} exp: largest relative error {:.2e}", worst.0);
    }
}

#[test]
fn exp_of_extremes_is_what_its_docs_say() {
    for (name, exp) in exps() {
        let mut x = [0.0; LANES];
        x[..6].copy_from_slice(&[f32::NEG_INFINITY, -1000.0, 88.5, f32::INFINITY, f32::NAN, 0.0]);
        let out = exp(&x);
        assert!(out[0] == out[1] && out[0] > 0.0 && out[0] < 1.3e-38, "{name}: {out:?}");
        assert_eq!((out[2], out[3], out[5]), (f32::INFINITY, f32::INFINITY, 1.0), "{name}");
        assert!(out[4].is_nan(), "{name}");
    }
}
