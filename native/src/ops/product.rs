//! A base matmul in parts that threads draw: one that is held up holds up no other.

use super::shares::Shares;
use super::{OpEnv, parallel};
use crate::error::Result;
use ort::operator::ComputeContext;
use std::sync::atomic::{AtomicUsize, Ordering};

pub struct Product<'a> {
    pub parts: usize,
    /// Multiplies part `.0`, `.1` being the one that this thread most likely multiplies next.
    pub multiply: &'a (dyn Fn(usize, Option<usize>) + Sync),
}

impl Product<'_> {
    /// Every part, on the session's pool.
    pub fn run(&self, env: &OpEnv, ctx: &ComputeContext) -> Result<()> {
        let (parts, arrived) = (self.shares(env.threads), AtomicUsize::new(0));
        parallel(ctx, env.threads, self.parts.min(env.threads), |_| {
            let worker = arrived.fetch_add(1, Ordering::Relaxed);
            parts.draw_all(worker, |part, next| (self.multiply)(part, next));
        })
    }

    pub fn shares(&self, threads: usize) -> Shares {
        Shares::new((0..self.parts).map(|_| 1), threads.max(1))
    }
}
