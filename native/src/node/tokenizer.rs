//! The tokenizer class. Encoding runs on libuv's pool; decoding a token is short and stays on the calling thread.

use super::job::{Job, JsError, js_error};
use crate::tokenizer;
use napi::bindgen_prelude::{AsyncTask, Uint8Array, Uint32Array};
use napi_derive::napi;
use std::path::Path;
use std::sync::Arc;

#[napi(object)]
pub struct TokenSpans {
    pub ids: Uint32Array,
    pub tokens: String,
    pub ends: Uint32Array,
    pub offsets: Uint32Array,
}

#[napi]
pub struct Tokenizer {
    inner: Arc<tokenizer::Tokenizer>,
}

#[napi]
impl Tokenizer {
    #[napi(factory, catch_unwind)]
    pub fn from_file(path: String) -> Result<Self, JsError> {
        let inner = tokenizer::Tokenizer::from_file(Path::new(&path)).map_err(js_error)?;
        Ok(Self { inner: Arc::new(inner) })
    }

    #[napi(catch_unwind)]
    pub fn from_json(json: Uint8Array) -> AsyncTask<Job<tokenizer::Tokenizer, Tokenizer>> {
        let json = json.to_vec();
        Job::new(move || tokenizer::Tokenizer::from_json(&json), |_, inner| Ok(Self { inner: Arc::new(inner) }))
    }

    #[napi(catch_unwind)]
    pub fn encode(&self, text: String, add_special_tokens: bool) -> AsyncTask<Job<Vec<u32>, Uint32Array>> {
        let inner = self.inner.clone();
        Job::new(move || inner.encode(&text, add_special_tokens), |_, ids| Ok(ids.into()))
    }

    #[napi(catch_unwind)]
    pub fn encode_spans(&self, text: String, add_special_tokens: bool) -> AsyncTask<Job<tokenizer::Spans, TokenSpans>> {
        let inner = self.inner.clone();
        Job::new(
            move || inner.encode_spans(&text, add_special_tokens),
            |_, spans| {
                Ok(TokenSpans { ids: spans.ids.into(), tokens: spans.tokens, ends: spans.ends.into(), offsets: spans.offsets.into() })
            },
        )
    }

    #[napi(catch_unwind)]
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, JsError> {
        self.inner.decode(ids, skip_special_tokens).map_err(js_error)
    }

    #[napi(catch_unwind)]
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.is_special(id)
    }

    #[napi(catch_unwind)]
    pub fn vocab_size(&self) -> u32 {
        u32::try_from(self.inner.vocab_size()).unwrap_or(u32::MAX)
    }
}
