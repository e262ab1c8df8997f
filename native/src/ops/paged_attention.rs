//! `PagedAttention(qkv f32 [T, (Hq + 2·Hk)·D]) → f32 [T, Hq·D]`: rotary, append to the KV pages, attend over them.
//!
//! Query heads `j` read key/value head `j / (Hq / Hk)`. Positions, block tables and slots come from the step context.
//! A row sees positions `max(0, p + 1 − local_window) … p`. Rows past the context's (padding) come out as zeros.

use super::{Matrix, OpEnv, Shared, attribute, compute, float_input, float_output, infer_rows_by, matrix, output, parallel};
use crate::error::Result;
use crate::kernels::attention::{Attend, PAGE};
use crate::manifest::DecoderConfig;
use crate::session::context::{Row, StepContext};
use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext};
use std::cell::RefCell;
use std::sync::Arc;

pub struct PagedAttention(pub Arc<OpEnv>);

/// The attributes of one node.
pub struct AttentionNode {
    pub layer: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub scale: f32,
    /// Positions that a row sees, itself included.
    pub window: Option<usize>,
}

impl AttentionNode {
    /// # Errors
    /// What is missing, or does not fit the model.
    pub fn read(info: &KernelContext<'_>, c: &DecoderConfig) -> ort::Result<Self> {
        let node = Self {
            layer: attribute(info.get("layer"), "layer")?,
            heads: attribute(info.get("num_heads"), "num_heads")?,
            kv_heads: attribute(info.get("kv_num_heads"), "kv_num_heads")?,
            dim: attribute(info.get("head_dim"), "head_dim")?,
            scale: info.get("scale").ok_or_else(|| ort::Error::new("ERR_MODEL_INVALID: PagedAttention: expected attribute scale"))?,
            window: info.get("local_window").and_then(|w: i64| usize::try_from(w).ok()).filter(|&w| w > 0),
        };
        if node.layer >= c.layers || (node.heads, node.kv_heads, node.dim) != (c.heads, c.kv_heads, c.head_dim) {
            return Err(ort::Error::new(format!(
                "ERR_MODEL_INVALID: PagedAttention: layer {} with {} / {} heads of {} does not fit the manifest: delete the model's cache entry",
                node.layer, node.heads, node.kv_heads, node.dim
            )));
        }
        Ok(node)
    }
}

thread_local! {
    /// Attention scores of one task.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Operator for PagedAttention {
    type Kernel<'a> = BoxedKernel<'a>;

    fn name(&self) -> &'static str {
        "PagedAttention"
    }
    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [float_input()]
    }
    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [float_output()]
    }
    fn infer_shape(&self, ctx: &mut ShapeInferenceContext) -> ort::Result<()> {
        let width = self.0.config.heads * self.0.config.head_dim;
        infer_rows_by(ctx, |_| i64::try_from(width).unwrap_or(-1))
    }
    fn create_kernel<'a>(&self, info: &KernelContext<'a>) -> ort::Result<BoxedKernel<'a>> {
        let env = self.0.clone();
        let node = AttentionNode::read(info, &env.config)?;
        Ok(Box::new(move |ctx: &ComputeContext| compute("PagedAttention", || run(&env, &node, ctx))))
    }
}

fn run(env: &OpEnv, node: &AttentionNode, ctx: &ComputeContext) -> Result<()> {
    let qkv = matrix(ctx, 0, Some((node.heads + 2 * node.kv_heads) * node.dim))?;
    let width = node.heads * node.dim;
    let out = Shared(output(ctx, qkv.rows, width)?);
    let step = env.context.get()?;
    let rows = step.rows.len().min(qkv.rows);
    // SAFETY: the output is [qkv.rows, width]; rows ≤ qkv.rows.
    unsafe { std::ptr::write_bytes(out.get().add(rows * width), 0, (qkv.rows - rows) * width) };

    // All keys and values are in place before any row looks at them: prefill rows see each other.
    let input = Shared(qkv.data.cast_mut());
    parallel(ctx, env.threads, rows, |t| {
        // SAFETY: t < rows; each task owns row t of the output and row t's KV slot (slots are distinct).
        unsafe { append_row(env, node, step.rows[t], input.get().add(t * qkv.columns), out.get().add(t * width)) }
    })?;
    attend_rows(env, node, ctx, &step, rows, out, &qkv)
}

/// Rotates row `qkv` into `q_out` (queries) and the row's KV slot.
///
/// # Safety
/// `qkv` is one row of the input, `q_out` one row of the output; nobody else touches them or the slot.
unsafe fn append_row(env: &OpEnv, node: &AttentionNode, row: Row, qkv: *const f32, q_out: *mut f32) {
    let dim = node.dim;
    // SAFETY: heads·dim and the two kv_heads·dim slices follow each other in the row.
    unsafe {
        let queries = std::slice::from_raw_parts_mut(q_out, node.heads * dim);
        queries.copy_from_slice(std::slice::from_raw_parts(qkv, node.heads * dim));
        for q in queries.chunks_exact_mut(dim) {
            env.rope.rotate(q, row.position);
        }
        let Some(slot) = row.slot else { return };
        let keys = std::slice::from_raw_parts(qkv.add(node.heads * dim), node.kv_heads * dim);
        let values = std::slice::from_raw_parts(qkv.add((node.heads + node.kv_heads) * dim), node.kv_heads * dim);
        SCORES.with_borrow_mut(|scratch| {
            for (head, (key, value)) in keys.chunks_exact(dim).zip(values.chunks_exact(dim)).enumerate() {
                scratch.clear();
                scratch.extend_from_slice(key);
                env.rope.rotate(scratch, row.position);
                env.kv.write(node.layer, head, slot, scratch, value);
            }
        });
    }
}

fn attend_rows(
    env: &OpEnv,
    node: &AttentionNode,
    ctx: &ComputeContext,
    step: &StepContext,
    rows: usize,
    out: Shared<f32>,
    qkv: &Matrix,
) -> Result<()> {
    debug_assert!(rows <= qkv.rows);
    let group = node.heads / node.kv_heads;
    parallel(ctx, env.threads, rows * node.kv_heads, |task| {
        let (t, head) = (task / node.kv_heads, task % node.kv_heads);
        let row = step.rows[t];
        let end = row.position + 1;
        let begin = node.window.map_or(0, |window| end.saturating_sub(window));
        SCORES.with_borrow_mut(|scores| {
            let wanted = group * end.next_multiple_of(PAGE);
            if scores.len() < wanted {
                scores.resize(wanted, 0.0);
            }
            let args = Attend {
                // SAFETY: row t has heads·dim outputs; this task owns the group's slice.
                q: unsafe { out.get().add((t * node.heads + head * group) * node.dim) },
                group,
                dim: node.dim,
                padded_dim: env.kv.padded_dim,
                dtype: env.kv.dtype,
                keys: env.kv.keys(node.layer, head),
                key_stride: env.kv.key_stride(),
                values: env.kv.values(node.layer, head),
                value_stride: env.kv.value_stride(),
                // SAFETY: the context checked that the sequence's table covers its positions with pages of the pool.
                block_table: unsafe { step.block_tables.as_ptr().add(row.table) },
                begin,
                end,
                scale: node.scale,
                scores: scores.as_mut_ptr(),
            };
            // SAFETY: the fields are as documented; begin < end because window > 0; the kernels fit this CPU.
            unsafe { (env.kernels.attend)(&args) };
        });
    })
}
