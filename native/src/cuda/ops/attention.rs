//! `PagedAttention(qkv [T, (heads + 2 · kv_heads) · dim]) → [T, heads · dim]` over the device's KV blocks.

use super::{DeviceOperator, element, matrix, output, stream};
use crate::cuda::abi;
use crate::cuda::device::check;
use crate::cuda::env::{DeviceEnv, int};
use crate::error::Result;
use crate::ops::{AttentionNode, check_rows};
use ort::operator::ComputeContext;
use std::sync::Arc;

pub fn paged_attention(env: &Arc<DeviceEnv>) -> DeviceOperator<false> {
    let env = env.clone();
    let width = env.config.heads * env.config.head_dim;
    DeviceOperator {
        name: "PagedAttention",
        inputs: vec![element(env.dtype)],
        width: Box::new(move |_| i64::try_from(width).unwrap_or(-1)),
        prepare: Box::new(move |info| {
            let env = env.clone();
            let node = AttentionNode::read(info, &env.config)?;
            Ok(Box::new(move |ctx: &ComputeContext| attend(&env, &node, ctx)))
        }),
    }
}

fn attend(env: &DeviceEnv, node: &AttentionNode, ctx: &ComputeContext) -> Result<()> {
    let (launch, stream) = (env.current.get()?, stream(env, ctx)?);
    let qkv = matrix(ctx, 0, Some((node.heads + 2 * node.kv_heads) * node.dim))?;
    let out = output(ctx, qkv.rows, node.heads * node.dim)?;
    check_rows("attention", qkv.rows, launch.rows(false))?;
    let (keys, values) = env.kv.layer(node.layer);
    let call = abi::Attention {
        keys,
        values,
        cos: env.rope.cos(),
        sin: env.rope.sin(),
        qkv: qkv.data,
        out,
        workspace: launch.attention,
        block_stride: env.kv.block_stride(),
        scale: node.scale,
        dtype: abi::dtype(env.dtype),
        rows: int(qkv.rows)?,
        heads: int(node.heads)?,
        kv_heads: int(node.kv_heads)?,
        dim: int(node.dim)?,
        window: node.window.map_or(Ok(-1), int)?,
        max_context: int(env.max_context)?,
        single_rows: int(launch.shape.single_rows)?,
        query_tiles: int(launch.shape.query_tiles)?,
    };
    // SAFETY: qkv and out are as the call says; the step context checked that blocks, slots and positions lie inside the pool
    // and below max_context; the workspace suffices for the run's single rows.
    check(unsafe { abi::lmx_attend(&raw const launch.step, &raw const call, stream) }, "PagedAttention")
}
