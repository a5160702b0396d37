//! The tests of contacts over a ledger in PostgreSQL; on a machine without it, over a file once more.

#[path = "contact.rs"]
mod contact;
