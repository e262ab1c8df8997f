//! `GatedSilu(x [T, 2F]) → [T, F]`: `silu(x[:, :F]) ⊙ x[:, F:]`.

use super::{DeviceOperator, element, matrix, output, stream};
use crate::cuda::abi;
use crate::cuda::device::check;
use crate::cuda::env::{DeviceEnv, int};
use crate::error::{Code, Error, Result};
use ort::operator::ComputeContext;
use std::sync::Arc;

pub fn gated_silu(env: &Arc<DeviceEnv>) -> DeviceOperator<false> {
    let env = env.clone();
    DeviceOperator {
        name: "GatedSilu",
        inputs: vec![element(env.dtype)],
        width: Box::new(|width| width / 2),
        prepare: Box::new(move |_| {
            let env = env.clone();
            Ok(Box::new(move |ctx: &ComputeContext| activate(&env, ctx)))
        }),
    }
}

fn activate(env: &DeviceEnv, ctx: &ComputeContext) -> Result<()> {
    let stream = stream(env, ctx)?;
    let x = matrix(ctx, 0, None)?;
    if !x.columns.is_multiple_of(2) {
        return Err(Error::new(Code::StepFailed, format!("input 0: expected an even number of columns, got {}", x.columns)));
    }
    let width = x.columns / 2;
    let y = output(ctx, x.rows, width)?;
    // SAFETY: x is [rows, 2 · width] and y [rows, width] of the session's dtype.
    let status = unsafe { abi::lmx_gated_silu(y, x.data, abi::dtype(env.dtype), int(x.rows)?, int(width)?, stream) };
    check(status, "GatedSilu")
}
