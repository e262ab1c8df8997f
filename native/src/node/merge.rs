//! `mergeAdapterFiles`. Shapes and meanings: `src/engine/binding.ts`.

use super::adapter_file::AdapterFile;
use super::job::{JsError, js_error};
use super::loader;
use crate::adapters::merge::{Majority, MergedTensor, Prune, Recipe, Term, merge};
use crate::adapters::safetensors::File;
use crate::error::{Code, Error, Result};
use napi::Env;
use napi::bindgen_prelude::{ClassInstance, Object};
use napi_derive::napi;
use std::sync::Arc;

#[napi(object, object_to_js = false)]
pub struct MergeTermObject {
    pub member: u32,
    pub tensor: String,
    pub weight: f64,
}

#[napi(object, object_to_js = false)]
pub struct MergedTensorObject {
    pub name: String,
    pub shape: Vec<u32>,
    pub terms: Vec<MergeTermObject>,
}

#[napi(object, object_to_js = false)]
pub struct MergeRecipeObject {
    pub digest: String,
    pub prune: String,
    pub rescale: bool,
    pub density: f64,
    pub elect: Option<String>,
    pub tensors: Vec<MergedTensorObject>,
}

#[napi(ts_return_type = "Promise<AdapterFile>", catch_unwind)]
pub fn merge_adapter_files<'env>(
    env: &'env Env,
    files: Vec<ClassInstance<'_, AdapterFile>>,
    recipe: MergeRecipeObject,
) -> std::result::Result<Object<'env>, JsError> {
    let files = files.iter().map(|file| file.held().cloned()).collect::<std::result::Result<Vec<Arc<File>>, JsError>>()?;
    let recipe = plain(recipe).map_err(js_error)?;
    loader::submit(env, move || merge(&files, &recipe), AdapterFile::of)
}

fn plain(recipe: MergeRecipeObject) -> Result<Recipe> {
    let unknown = |field: &str, value: &str| Error::new(Code::Native, format!("merge recipe, {field}: unknown value {value}"));
    let prune = match recipe.prune.as_str() {
        "none" => Prune::None,
        "magnitude" => Prune::Magnitude,
        "random" => Prune::Random { rescale: recipe.rescale },
        other => return Err(unknown("prune", other)),
    };
    let elect = match recipe.elect.as_deref() {
        None => None,
        Some("total") => Some(Majority::Total),
        Some("frequency") => Some(Majority::Frequency),
        Some(other) => return Err(unknown("elect", other)),
    };
    if !recipe.density.is_finite() || recipe.density < 0.0 {
        return Err(unknown("density", &recipe.density.to_string()));
    }
    #[allow(clippy::cast_possible_truncation, reason = "weights are applied in float32")]
    let term = |t: MergeTermObject| Term { member: t.member as usize, tensor: t.tensor, weight: t.weight as f32 };
    let tensor = |t: MergedTensorObject| MergedTensor {
        name: t.name,
        shape: t.shape.into_iter().map(|n| n as usize).collect(),
        terms: t.terms.into_iter().map(term).collect(),
    };
    let tensors = recipe.tensors.into_iter().map(tensor).collect();
    Ok(Recipe { digest: recipe.digest, prune, density: recipe.density, elect, tensors })
}
