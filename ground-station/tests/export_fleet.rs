//! The tests of exports over a spool in PostgreSQL; on a machine without it, over a file once more.

#[path = "export.rs"]
mod export;
