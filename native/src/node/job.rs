//! Promises with coded errors.

use crate::error::{Error, Result, guard};
use napi::bindgen_prelude::{AsyncTask, ToNapiValue, TypeName};
use napi::{Env, Task};

/// An error whose JS `code` is one of the table's.
pub type JsError = napi::Error<&'static str>;

pub fn js_error(e: Error) -> JsError {
    JsError::new(e.code.as_str(), e.message)
}

/// The same as a rejection: napi-rs carries only its own statuses through promises, so the JS error is made here.
pub fn rejection(env: Env, e: Error) -> napi::Error {
    napi::JsError::from(js_error(e)).into_unknown(env).into()
}

type Work<T> = Box<dyn FnOnce() -> Result<T> + Send>;

/// Work on libuv's pool, then `finish` on the calling thread.
pub struct Job<T, J> {
    work: Option<Work<T>>,
    finish: fn(Env, T) -> napi::Result<J>,
}

impl<T: Send + 'static, J: ToNapiValue + TypeName> Job<T, J> {
    pub fn new(work: impl FnOnce() -> Result<T> + Send + 'static, finish: fn(Env, T) -> napi::Result<J>) -> AsyncTask<Self> {
        AsyncTask::new(Self { work: Some(Box::new(work)), finish })
    }
}

impl<T: Send + 'static, J: ToNapiValue + TypeName> Task for Job<T, J> {
    type Output = Result<T>;
    type JsValue = J;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        let work = self.work.take().ok_or_else(|| napi::Error::from_reason("a job ran twice"))?;
        Ok(guard(work))
    }

    fn resolve(&mut self, env: Env, output: Self::Output) -> napi::Result<J> {
        match output {
            Ok(value) => (self.finish)(env, value),
            Err(e) => Err(rejection(env, e)),
        }
    }
}
