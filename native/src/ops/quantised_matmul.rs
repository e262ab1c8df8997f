//! `QuantisedMatMul(x f32 [T, in], quants u8 [panels, in / 32, 64 · bits], scales u16 [panels, in / 32, 16], mins?) → f32 [T, rows]`:
//! `x · Wᵀ` with W packed as `kernels/quantised.rs` says, scales and minima as the bits of float16; minima only at 4 bits. Adapted as
//! `adapted.rs` says.
//!
//! Attributes: `bits` 8 or 4, `rows` the output columns, and those of `adapted.rs`. Every row of x is rounded by itself: its result is the same bits
//! in any batch.

use super::adapted::Adapted;
use super::product::Product;
use super::{Matrix, OpEnv, Shared, attribute, compute, float_input, float_output, infer_rows_by, matrix, output, packed, parallel};
use crate::error::{Code, Error, Result};
use crate::kernels::quantised::{BLOCK, Bits, Matmul, RowBlock};
use crate::kernels::simd::LANES;
use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext};
use ort::value::TensorElementType;
use std::cell::RefCell;
use std::sync::Arc;

pub struct QuantisedMatMul(pub Arc<OpEnv>);

/// Rows that one task rounds.
const ROUND_ROWS: usize = 8;
/// Rows that one part multiplies: their quants stay in a core's own cache.
const PART_ROWS: usize = 128;
/// Parts for each thread, so that one that is held up does not hold up the rest.
const PARTS_PER_THREAD: usize = 8;

thread_local! {
    /// The rounded rows of one product.
    static ROUNDED: RefCell<(Vec<i8>, Vec<RowBlock>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl Operator for QuantisedMatMul {
    type Kernel<'a> = BoxedKernel<'a>;

    fn name(&self) -> &'static str {
        "QuantisedMatMul"
    }
    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let factors = TensorElementType::Uint16;
        [
            float_input(),
            OperatorInput::required(TensorElementType::Uint8),
            OperatorInput::required(factors),
            OperatorInput::optional(factors),
        ]
    }
    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [float_output()]
    }
    fn infer_shape(&self, ctx: &mut ShapeInferenceContext) -> ort::Result<()> {
        let rows: i64 = ctx.attr("rows")?;
        infer_rows_by(ctx, |_| rows)
    }
    fn create_kernel<'a>(&self, info: &KernelContext<'a>) -> ort::Result<BoxedKernel<'a>> {
        let env = self.0.clone();
        let width = attribute(info.get("rows"), "rows")?;
        let bits = match attribute(info.get("bits"), "bits")? {
            8 => Bits::Eight,
            4 => Bits::Four,
            n => return Err(ort::Error::new(format!("ERR_MODEL_INVALID: QuantisedMatMul: expected 8 or 4 bits, got {n}"))),
        };
        let adapted = Adapted::read(info, &env, width)?;
        Ok(Box::new(move |ctx: &ComputeContext| {
            compute("QuantisedMatMul", || {
                let x = matrix(ctx, 0, None)?;
                multiply(&env, &adapted, (bits, width), ctx, &x)
            })
        }))
    }
}

/// The product and what adapters make of it, in the operator's output.
fn multiply(env: &OpEnv, adapted: &Adapted, (bits, width): (Bits, usize), ctx: &ComputeContext, x: &Matrix) -> Result<()> {
    let &Matrix { data, rows, columns } = x;
    if !columns.is_multiple_of(BLOCK) {
        return Err(Error::new(Code::StepFailed, format!("input 0: expected blocks of {BLOCK} columns, got {columns}")));
    }
    let (blocks, panels) = (columns / BLOCK, width.div_ceil(LANES));
    let w = Shared(packed::<u8>(ctx, 1, [panels, blocks, bits.block_bytes()])?.cast_mut());
    let scales = Shared(packed::<u16>(ctx, 2, [panels, blocks, LANES])?.cast_mut());
    let mins = match bits {
        Bits::Eight => Shared(std::ptr::null_mut()),
        Bits::Four => Shared(packed::<u16>(ctx, 3, [panels, blocks, LANES])?.cast_mut()),
    };
    let y = Shared(output(ctx, rows, width)?);
    ROUNDED.with_borrow_mut(|(quants, row_blocks)| {
        if quants.len() < rows * columns {
            quants.resize(rows * columns, 0);
            row_blocks.resize(rows * blocks, RowBlock::default());
        }
        let (input, quants, row_blocks) = (Shared(data.cast_mut()), Shared(quants.as_mut_ptr()), Shared(row_blocks.as_mut_ptr()));
        parallel(ctx, env.threads, rows.div_ceil(ROUND_ROWS), |task| {
            for row in task * ROUND_ROWS..rows.min((task + 1) * ROUND_ROWS) {
                // SAFETY: row < rows of x, quants and row_blocks; each task owns its rows.
                unsafe {
                    let at = row * columns;
                    (env.kernels.quantise_row)(input.get().add(at), columns, quants.get().add(at), row_blocks.get().add(row * blocks));
                }
            }
        })?;
        let chunk = panels.div_ceil(env.threads * PARTS_PER_THREAD).next_multiple_of(2);
        let chunks = panels.div_ceil(chunk);
        let multiply = |part: usize, _next: Option<usize>| {
            let (first, panel) = (part / chunks * PART_ROWS, part % chunks * chunk);
            // SAFETY: rows first .. first + rows lie in x and y, panels in the packed weights, whose shapes were checked;
            // parts own distinct rows or columns of y.
            unsafe {
                (env.kernels.quantised_matmul)(&Matmul {
                    x: quants.get().add(first * columns),
                    x_blocks: row_blocks.get().add(first * blocks),
                    rows: (rows - first).min(PART_ROWS),
                    blocks,
                    bits,
                    w: w.get(),
                    scales: scales.get(),
                    mins: mins.get(),
                    panels: (panel, panels.min(panel + chunk)),
                    width,
                    y: y.get().add(first * width),
                });
            }
        };
        adapted.run(env, ctx, x, y, &Product { parts: chunks * rows.div_ceil(PART_ROWS), multiply: &multiply })
    })
}
