//! Rows of the head that adapters bring, over the logits of the base's: `logits[i, t] ← w_t · x[i]` for every such token t.

use super::{OpEnv, Shared, parallel};
use crate::adapters::resident::PackedRows;
use crate::error::Result;
use crate::kernels::lora::{GROUP, Shrink, Stored};
use crate::session::context::{Segment, StepContext};
use ort::operator::ComputeContext;

/// Rows of the head that one task multiplies by: they stay in a core's cache while the task's rows of x pass.
const TASK_ROWS: usize = 64 * GROUP;

/// Overwrites logits [rows, vocab] of the rows that reach the head, whose inputs are `x` [rows, hidden].
pub fn replace(env: &OpEnv, ctx: &ComputeContext, step: &StepContext, x: *const f32, logits: Shared<f32>) -> Result<()> {
    for segment in &step.segments {
        // Replaced rows stand alone in their segment (checked with the batch).
        let head = segment.terms.iter().find_map(|(adapter, _)| adapter.head.as_ref().map(|head| (head, adapter.slab.bytes())));
        let Some((head, slab)) = head.filter(|_| !segment.logits_rows.is_empty()) else { continue };
        // SAFETY: the segment's rows are rows of the matrix (the caller's promise).
        let out = Shared(unsafe { logits.get().add(segment.logits_rows.start * env.vocab) });
        match &head.tokens {
            None => multiply(env, ctx, &head.rows, slab, segment, x, out, env.vocab)?,
            Some(tokens) => {
                let mut products = vec![0.0f32; segment.logits_rows.len() * tokens.len()];
                multiply(env, ctx, &head.rows, slab, segment, x, Shared(products.as_mut_ptr()), tokens.len())?;
                for (row, products) in products.chunks_exact(tokens.len()).enumerate() {
                    for (&token, &product) in tokens.iter().zip(products) {
                        // SAFETY: the row as above; tokens are below the vocabulary's size (checked when compiled).
                        unsafe { *out.get().add(row * env.vocab + token as usize) = product };
                    }
                }
            }
        }
    }
    Ok(())
}

/// `out[i, j] = rows[j] · x[i]` for the segment's rows of x; `out` rows lie `stride` apart.
#[allow(clippy::too_many_arguments, reason = "one call of a kernel, said in full")]
fn multiply(
    env: &OpEnv,
    ctx: &ComputeContext,
    rows: &PackedRows,
    slab: &[u8],
    segment: &Segment,
    x: *const f32,
    out: Shared<f32>,
    stride: usize,
) -> Result<()> {
    let x = Shared(x.cast_mut());
    parallel(ctx, env.threads, rows.count.div_ceil(TASK_ROWS), |task| {
        let args = Shrink {
            // SAFETY: the segment's rows are rows of x (checked by the caller).
            x: unsafe { x.get().add(segment.logits_rows.start * rows.width) },
            x_stride: rows.width,
            rows: segment.logits_rows.len(),
            width: rows.width,
            a: slab[rows.offset..].as_ptr(),
            stored: Stored::Float(rows.dtype),
            ranks: (task * TASK_ROWS, rows.count.min((task + 1) * TASK_ROWS)),
            scale: std::ptr::null(),
            strength: 1.0,
            h: out.get(),
            h_stride: stride,
        };
        // SAFETY: tasks write distinct columns of out [rows, stride]; the packed rows are whole groups from a multiple of GROUP.
        unsafe { (env.kernels.shrink)(&args) };
    })
}
