//! The operators that change what rows with adapters get; base rows pass through. See `crate::ops` for what each computes.

use super::{DeviceOperator, element, matrix, stream, updated};
use crate::cuda::abi;
use crate::cuda::device::check;
use crate::cuda::env::{DeviceEnv, int};
use crate::error::Result;
use crate::ops::{attribute, check_rows};
use ort::operator::{ComputeContext, KernelContext};
use ort::value::TensorElementType;
use std::sync::Arc;

/// `SegmentedEmbedding(x [T, H], input_ids i64 [T]) → x'`.
pub fn segmented_embedding(env: &Arc<DeviceEnv>) -> DeviceOperator<true> {
    let env = env.clone();
    DeviceOperator {
        name: "SegmentedEmbedding",
        inputs: vec![element(env.dtype), TensorElementType::Int64],
        width: Box::new(|width| width),
        prepare: Box::new(move |_| {
            let env = env.clone();
            Ok(Box::new(move |ctx: &ComputeContext| embed(&env, ctx)))
        }),
    }
}

fn embed(env: &DeviceEnv, ctx: &ComputeContext) -> Result<()> {
    let (launch, stream) = (env.current.get()?, stream(env, ctx)?);
    let base = matrix(ctx, 0, Some(env.hidden))?;
    let y = updated(ctx, &base, env.dtype, stream)?;
    if !launch.adapted {
        return Ok(());
    }
    check_rows("embedding", base.rows, launch.rows(false))?;
    let (rows, hidden) = (int(base.rows)?, int(env.hidden)?);
    // SAFETY: y is [rows, hidden] of the session's dtype; the step's tables were filled for at most these rows, and its
    // adapters were compiled for this model.
    let status = unsafe { abi::lmx_segmented_embedding(&raw const launch.step, y, abi::dtype(env.dtype), rows, hidden, stream) };
    check(status, "SegmentedEmbedding")
}

/// `SegmentedNorm(y [T, H], x [T, H]) → y'`; attributes `norm`, `epsilon`.
pub fn segmented_norm(env: &Arc<DeviceEnv>) -> DeviceOperator<true> {
    let env = env.clone();
    DeviceOperator {
        name: "SegmentedNorm",
        inputs: vec![element(env.dtype); 2],
        width: Box::new(|width| width),
        prepare: Box::new(move |info| {
            let env = env.clone();
            let norm = index(info, "norm", "SegmentedNorm", env.norms)?;
            let epsilon: f32 =
                info.get("epsilon").ok_or_else(|| ort::Error::new("ERR_MODEL_INVALID: SegmentedNorm: expected attribute epsilon"))?;
            Ok(Box::new(move |ctx: &ComputeContext| normalise(&env, norm, epsilon, ctx)))
        }),
    }
}

fn normalise(env: &DeviceEnv, norm: usize, epsilon: f32, ctx: &ComputeContext) -> Result<()> {
    let (launch, stream) = (env.current.get()?, stream(env, ctx)?);
    let base = matrix(ctx, 0, Some(env.hidden))?;
    let y = updated(ctx, &base, env.dtype, stream)?;
    if !launch.adapted {
        return Ok(());
    }
    let x = matrix(ctx, 1, Some(env.hidden))?;
    check_rows("norm", base.rows.min(x.rows), launch.rows(false))?;
    let (norm, rows, hidden) = (int(norm)?, int(base.rows)?, int(env.hidden)?);
    // SAFETY: x and y are [rows, hidden] of the session's dtype and distinct, because the runtime may only give y the memory of
    // input 0; the model has the norm (checked when the operator was created).
    let status =
        unsafe { abi::lmx_segmented_norm(&raw const launch.step, y, x.data, norm, epsilon, abi::dtype(env.dtype), rows, hidden, stream) };
    check(status, "SegmentedNorm")
}

/// `SegmentedLora(y [T, out], x [T, in]) → y'`; attributes `site`, `logits_rows`.
pub fn segmented_lora(env: &Arc<DeviceEnv>) -> DeviceOperator<true> {
    let env = env.clone();
    DeviceOperator {
        name: "SegmentedLora",
        inputs: vec![element(env.dtype); 2],
        width: Box::new(|width| width),
        prepare: Box::new(move |info| {
            let env = env.clone();
            let site = index(info, "site", "SegmentedLora", env.sites.len())?;
            let at_head = info.get("logits_rows").is_some_and(|flag: i64| flag != 0);
            Ok(Box::new(move |ctx: &ComputeContext| add_deltas(&env, site, at_head, ctx)))
        }),
    }
}

fn add_deltas(env: &DeviceEnv, site: usize, at_head: bool, ctx: &ComputeContext) -> Result<()> {
    let (in_features, out_features) = env.sites[site];
    let (launch, stream) = (env.current.get()?, stream(env, ctx)?);
    let base = matrix(ctx, 0, Some(out_features))?;
    let y = updated(ctx, &base, env.dtype, stream)?;
    if !launch.adapted {
        return Ok(());
    }
    let x = matrix(ctx, 1, Some(in_features))?;
    check_rows(&format!("site {site}"), base.rows.min(x.rows), launch.rows(at_head))?;
    let call = abi::Sgmv {
        x: x.data,
        y,
        h: launch.shrunk,
        dtype: abi::dtype(env.dtype),
        rows: int(base.rows)?,
        in_features: int(in_features)?,
        out_features: int(out_features)?,
        site: int(site)?,
        at_head: i32::from(at_head),
        h_stride: int(launch.shape.h_stride)?,
        has_long: i32::from(launch.shape.has_long),
    };
    // SAFETY: the matrices are as the call says; h holds what a call of these rows and the site with most inputs needs; the
    // model has the site (checked when the operator was created).
    check(unsafe { abi::lmx_sgmv_apply(&raw const launch.step, &raw const call, stream) }, "SegmentedLora")
}

/// `SegmentedHead(logits [L, V], x [L, H]) → logits'`.
pub fn segmented_head(env: &Arc<DeviceEnv>) -> DeviceOperator<true> {
    let env = env.clone();
    DeviceOperator {
        name: "SegmentedHead",
        inputs: vec![element(env.dtype); 2],
        width: Box::new(|width| width),
        prepare: Box::new(move |_| {
            let env = env.clone();
            Ok(Box::new(move |ctx: &ComputeContext| replace_columns(&env, ctx)))
        }),
    }
}

fn replace_columns(env: &DeviceEnv, ctx: &ComputeContext) -> Result<()> {
    let (launch, stream) = (env.current.get()?, stream(env, ctx)?);
    let base = matrix(ctx, 0, Some(env.vocab))?;
    let logits = updated(ctx, &base, env.dtype, stream)?;
    if !launch.adapted {
        return Ok(());
    }
    let x = matrix(ctx, 1, Some(env.hidden))?;
    check_rows("head", base.rows.min(x.rows), launch.rows(true))?;
    let (rows, vocab, hidden) = (int(base.rows)?, int(env.vocab)?, int(env.hidden)?);
    // SAFETY: logits are [rows, vocab] and x [rows, hidden] of the session's dtype; replaced tokens are below vocab (checked
    // when compiled).
    let status =
        unsafe { abi::lmx_segmented_head(&raw const launch.step, logits, x.data, abi::dtype(env.dtype), rows, vocab, hidden, stream) };
    check(status, "SegmentedHead")
}

/// Attribute `name`, below `count`.
fn index(info: &KernelContext<'_>, name: &str, operator: &str, count: usize) -> ort::Result<usize> {
    let found = attribute(info.get(name), name)?;
    if found < count {
        return Ok(found);
    }
    Err(ort::Error::new(format!(
        "ERR_MODEL_INVALID: {operator}: the graph names {name} {found}, the manifest has {count}: delete the model's cache entry"
    )))
}
