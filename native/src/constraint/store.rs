//! Matchers by handle, and the constraints that were compiled last.

use super::Constraint;
use super::compile::compile;
use super::matcher::Matcher;
use super::vocabulary::Vocabulary;
use crate::error::{Code, Error, Result};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Compiled constraints that are kept, since the same schema comes again and again.
const KEPT: usize = 16;

/// A sequence's matcher, and what it was compiled from.
struct Entry {
    constraint: Arc<Constraint>,
    matcher: Mutex<Matcher>,
}

/// All matchers of one engine.
pub struct ConstraintStore {
    tokenizer: PathBuf,
    end_ids: Vec<u32>,
    /// Built by the first constraint.
    vocabulary: Mutex<Option<Arc<Vocabulary>>>,
    /// The latest used last.
    compiled: Mutex<Vec<(Arc<Constraint>, Matcher)>>,
    next: AtomicU32,
    matchers: Mutex<HashMap<i32, Arc<Entry>>>,
}

/// A matcher while a step uses it; released or not, it stays until dropped.
#[derive(Clone)]
pub struct InUse(Arc<Entry>);

impl InUse {
    pub fn lock(&self) -> MutexGuard<'_, Matcher> {
        lock(&self.0.matcher)
    }
}

impl ConstraintStore {
    #[must_use]
    pub fn new(tokenizer: PathBuf, end_ids: Vec<u32>) -> Self {
        Self {
            tokenizer,
            end_ids,
            vocabulary: Mutex::default(),
            compiled: Mutex::default(),
            next: AtomicU32::new(0),
            matchers: Mutex::default(),
        }
    }

    /// A new matcher's handle; never used before.
    ///
    /// # Errors
    /// `ERR_VALIDATION` as of [`compile`], `ERR_TOKENIZER` as of [`Vocabulary::from_file`].
    pub fn open(&self, constraint: Constraint) -> Result<i32> {
        let (constraint, matcher) = match self.recall(&constraint) {
            Some(known) => known,
            None => self.learn(constraint)?,
        };
        let handle = i32::try_from(self.next.fetch_add(1, Ordering::Relaxed))
            .map_err(|_| Error::new(Code::Native, "no constraint handles are left: restart the server"))?;
        lock(&self.matchers).insert(handle, Arc::new(Entry { constraint, matcher: Mutex::new(matcher) }));
        Ok(handle)
    }

    /// # Errors
    /// `ERR_STEP_FAILED` for a handle that is not open.
    pub fn get(&self, handle: i32) -> Result<InUse> {
        lock(&self.matchers).get(&handle).cloned().map(InUse).ok_or_else(|| {
            Error::new(Code::StepFailed, format!("constraint handle {handle} is not open: it was released before its rows ended"))
        })
    }

    /// Forgets a matcher; harmless when it is not there.
    pub fn release(&self, handle: i32) {
        let entry = lock(&self.matchers).remove(&handle);
        drop(entry);
    }

    /// A matcher failed: what it shares with others of its constraint may be full, so the next is compiled anew.
    pub fn give_up(&self, matcher: &InUse) {
        lock(&self.compiled).retain(|(constraint, _)| !Arc::ptr_eq(constraint, &matcher.0.constraint));
    }

    /// Forgets all: the engine is closing.
    pub fn clear(&self) {
        lock(&self.matchers).clear();
        lock(&self.compiled).clear();
    }

    /// Matchers that are open.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.matchers).len()
    }

    fn recall(&self, constraint: &Constraint) -> Option<(Arc<Constraint>, Matcher)> {
        let mut compiled = lock(&self.compiled);
        let at = compiled.iter().position(|(known, _)| **known == *constraint)?;
        let found = compiled.remove(at);
        compiled.push(found.clone());
        Some(found)
    }

    fn learn(&self, constraint: Constraint) -> Result<(Arc<Constraint>, Matcher)> {
        let matcher = compile(&*self.vocabulary()?, &constraint)?;
        let learned = (Arc::new(constraint), matcher);
        let mut compiled = lock(&self.compiled);
        compiled.push(learned.clone());
        if compiled.len() > KEPT {
            compiled.remove(0);
        }
        Ok(learned)
    }

    fn vocabulary(&self) -> Result<Arc<Vocabulary>> {
        let mut vocabulary = lock(&self.vocabulary);
        if let Some(known) = &*vocabulary {
            return Ok(known.clone());
        }
        let built = Arc::new(Vocabulary::from_file(&self.tokenizer, &self.end_ids)?);
        *vocabulary = Some(built.clone());
        Ok(built)
    }
}

/// Locks whatever happened to earlier holders: the maps stay consistent between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
