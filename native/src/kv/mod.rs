//! Keys and values: pages that sequences are given by the scheduler, and the rotary tables.

pub mod pages;
pub mod rope;
