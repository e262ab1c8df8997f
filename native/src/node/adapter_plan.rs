//! The adapter plan's JavaScript objects and their plain form. Shapes and meanings: `src/engine/binding.ts`.

use crate::adapters::compile::{AdapterPlan, BiasPlan, ModulePlan};
use napi_derive::napi;

#[napi(object, object_to_js = false)]
pub struct ModulePlanObject {
    pub site: u32,
    pub module: u32,
    pub a: String,
    pub b: String,
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

/// What an adapter brings beside the factors of linear modules.
#[napi(object, object_to_js = false)]
pub struct ExtrasObject {
    pub biases: Vec<BiasPlanObject>,
}

/// A plan that no longer depends on the caller's objects.
pub fn adapter_plan(modules: Vec<ModulePlanObject>, extras: Option<ExtrasObject>) -> AdapterPlan {
    let module = |m: ModulePlanObject| ModulePlan {
        site: m.site as usize,
        module: m.module as usize,
        a: m.a,
        b: m.b,
        magnitude: m.magnitude,
        lora_bias: m.lora_bias,
        rank: m.rank as usize,
        scaling: m.scaling,
    };
    let bias = |b: BiasPlanObject| BiasPlan { site: b.site as usize, module: b.module as usize, tensor: b.tensor };
    let mut plan = AdapterPlan { modules: modules.into_iter().map(module).collect(), ..AdapterPlan::default() };
    if let Some(extras) = extras {
        plan.biases = extras.biases.into_iter().map(bias).collect();
    }
    plan
}
