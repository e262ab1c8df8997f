//! What adapters make of a base matmul's product, within the operator that wrote it: a step without adapter rows costs the
//! matmul and nothing more, and logits, a graph's output that no other operator could write in place, are never copied.
//!
//! Attributes: `site` the matmul's LoRA site, absent where adapters change nothing; `head` 1 where the matrices hold only the
//! rows that reach the head and the product is logits, of which adapters may replace columns.

use super::product::Product;
use super::{Matrix, OpEnv, Shared, check_rows, segmented_head, segmented_lora};
use crate::error::{Code, Error, Result};
use ort::operator::{ComputeContext, KernelContext};

pub struct Adapted(Option<Site>);

struct Site {
    site: usize,
    at_head: bool,
}

impl Adapted {
    /// Of a node with `width` output columns.
    ///
    /// # Errors
    /// A site that the manifest does not have, or has in another shape.
    pub fn read(info: &KernelContext<'_>, env: &OpEnv, width: usize) -> ort::Result<Self> {
        let Some(site) = info.get::<i64>("site") else { return Ok(Self(None)) };
        let at_head = info.get("head").is_some_and(|flag: i64| flag != 0);
        let fits = |&(inputs, outputs): &(usize, usize)| outputs == width && (!at_head || (inputs, outputs) == (env.hidden, env.vocab));
        match usize::try_from(site).ok().filter(|&site| env.sites.get(site).is_some_and(fits)) {
            Some(site) => Ok(Self(Some(Site { site, at_head }))),
            None => Err(ort::Error::new(format!(
                "ERR_MODEL_INVALID: the graph's site {site} with {width} output columns is not in the manifest: delete the model's cache entry"
            ))),
        }
    }

    /// Runs `product`, the matmul of `x` into `y`, and changes its rows that belong to adapters.
    pub fn run(&self, env: &OpEnv, ctx: &ComputeContext, x: &Matrix, y: Shared<f32>, product: &Product<'_>) -> Result<()> {
        let Some(Site { site, at_head }) = self.0 else { return product.run(env, ctx) };
        let step = env.context.get()?;
        if step.segments.is_empty() {
            return product.run(env, ctx);
        }
        check_rows(&format!("site {site}"), x.rows, step.row_count(at_head))?;
        let inputs = env.sites[site].0;
        if x.columns != inputs {
            return Err(Error::new(Code::StepFailed, format!("site {site}: expected {inputs} input columns, got {}", x.columns)));
        }
        segmented_lora::multiply_and_add(env, ctx, product, &step, (site, at_head), x.data, y)?;
        if at_head { segmented_head::replace(env, ctx, &step, x.data, y) } else { Ok(()) }
    }
}
