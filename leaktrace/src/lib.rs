//! leaktrace as a library: everything the binary does, behind one entry point, so that tests and the binary share it.
//!
//! The flow is one-way: BPF programs -> maps -> kernel -> trace -> [`model`] -> [`report`]. Each room says in its first lines
//! what it is for; `cargo xtask tidy` knows which room may name which.

pub mod analysis;
pub mod clean;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod elf;
mod holder;
pub mod host;
mod kernel;
mod lives;
mod logging;
pub mod model;
pub mod outcome;
mod packages;
pub mod probes;
pub mod process;
mod ranges;
pub mod report;
mod run;
mod show;
mod sources;
pub mod symbolize;
mod trace;
pub mod unwind_tables;
mod workers;

pub use run::main;
