//! Failures with a stable code, the same table as `src/core/errors.ts`.

use std::fmt;

/// Codes that native code raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    AdapterInvalid,
    AdapterTooLarge,
    AdapterNotFound,
    AdapterNoSpace,
    ModelInvalid,
    Tokenizer,
    Validation,
    NativeLoad,
    Native,
    Device,
    StepFailed,
    EngineClosed,
}

impl Code {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AdapterInvalid => "ERR_ADAPTER_INVALID",
            Self::AdapterTooLarge => "ERR_ADAPTER_TOO_LARGE",
            Self::AdapterNotFound => "ERR_ADAPTER_NOT_FOUND",
            Self::AdapterNoSpace => "ERR_ADAPTER_NO_SPACE",
            Self::ModelInvalid => "ERR_MODEL_INVALID",
            Self::Tokenizer => "ERR_TOKENIZER",
            Self::Validation => "ERR_VALIDATION",
            Self::NativeLoad => "ERR_NATIVE_LOAD",
            Self::Native => "ERR_NATIVE",
            Self::Device => "ERR_DEVICE",
            Self::StepFailed => "ERR_STEP_FAILED",
            Self::EngineClosed => "ERR_ENGINE_CLOSED",
        }
    }
}

/// What went wrong: the message says what was expected, what came and what to do.
#[derive(Clone, Debug)]
pub struct Error {
    pub code: Code,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl std::error::Error for Error {}

/// Runs `f`, turning a panic into an [`Code::Native`] error. Nothing that `f` touched is used after a panic.
///
/// # Errors
/// What `f` returns, or the panic's message.
pub fn guard<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        Err(Error::new(Code::Native, format!("internal error in the native addon: {text}. Please report it")))
    })
}
