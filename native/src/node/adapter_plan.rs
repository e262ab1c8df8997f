//! The adapter plan's JavaScript objects and their plain form. Shapes and meanings: `src/engine/binding.ts`.

use crate::adapters::compile::{AdapterPlan, BiasPlan, CopyPlan, EmbeddingPlan, ModulePlan, NormPlan, RowsPlan};
use napi_derive::napi;

#[napi(object, object_to_js = false)]
pub struct ModulePlanObject {
    pub site: u32,
    pub module: u32,
    pub a: String,
    pub b: String,
    pub a_blocks: Option<u32>,
    pub b_blocks: Option<u32>,
    pub magnitude: Option<String>,
    pub lora_bias: Option<String>,
    pub rank: u32,
    pub scaling: f64,
}

#[napi(object, object_to_js = false)]
pub struct BiasPlanObject {
    pub site: u32,
    pub module: u32,
    pub tensor: String,
}

#[napi(object, object_to_js = false)]
pub struct CopyPlanObject {
    pub tensor: String,
    pub site: Option<u32>,
}

#[napi(object, object_to_js = false)]
pub struct EmbeddingPlanObject {
    pub a: String,
    pub b: String,
    pub magnitude: Option<String>,
    pub rank: u32,
    pub scaling: f64,
}

#[napi(object, object_to_js = false)]
pub struct RowsPlanObject {
    pub tensor: String,
    pub tokens: Option<Vec<u32>>,
}

#[napi(object, object_to_js = false)]
pub struct NormPlanObject {
    pub norm: u32,
    pub tensor: String,
}

/// What an adapter brings beside the factors of linear modules.
#[napi(object, object_to_js = false)]
pub struct ExtrasObject {
    pub biases: Vec<BiasPlanObject>,
    pub copies: Vec<CopyPlanObject>,
    pub embedding: Option<EmbeddingPlanObject>,
    pub embedding_rows: Option<RowsPlanObject>,
    pub head_rows: Option<RowsPlanObject>,
    pub norms: Vec<NormPlanObject>,
}

/// A plan that no longer depends on the caller's objects.
pub fn adapter_plan(modules: Vec<ModulePlanObject>, extras: Option<ExtrasObject>) -> AdapterPlan {
    let module = |m: ModulePlanObject| ModulePlan {
        site: m.site as usize,
        module: m.module as usize,
        a: m.a,
        b: m.b,
        a_blocks: m.a_blocks.unwrap_or(1) as usize,
        b_blocks: m.b_blocks.unwrap_or(1) as usize,
        magnitude: m.magnitude,
        lora_bias: m.lora_bias,
        rank: m.rank as usize,
        scaling: m.scaling,
    };
    let bias = |b: BiasPlanObject| BiasPlan { site: b.site as usize, module: b.module as usize, tensor: b.tensor };
    let modules = modules.into_iter().map(module).collect();
    let Some(extras) = extras else { return AdapterPlan { modules, ..AdapterPlan::default() } };
    let rows = |r: RowsPlanObject| RowsPlan { tensor: r.tensor, tokens: r.tokens };
    AdapterPlan {
        modules,
        biases: extras.biases.into_iter().map(bias).collect(),
        copies: extras.copies.into_iter().map(|c| CopyPlan { tensor: c.tensor, site: c.site.map(|site| site as usize) }).collect(),
        embedding: extras.embedding.map(|e| EmbeddingPlan {
            a: e.a,
            b: e.b,
            magnitude: e.magnitude,
            rank: e.rank as usize,
            scaling: e.scaling,
        }),
        embedding_rows: extras.embedding_rows.map(rows),
        head_rows: extras.head_rows.map(rows),
        norms: extras.norms.into_iter().map(|n| NormPlan { norm: n.norm as usize, tensor: n.tensor }).collect(),
    }
}
