//! leaktrace as a library: everything the binary does, behind one entry point, so that tests and the binary share it.
//!
//! The flow is one-way: BPF programs -> maps -> [`session`] -> [`model`] -> symbols -> [`report`].

pub mod cli;
pub mod config;
pub mod doctor;
mod logging;
pub mod model;
pub mod object;
pub mod outcome;
pub mod procmaps;
pub mod report;
mod run;
pub mod sampling;
pub mod session;
pub mod symbolize;
pub mod targets;
pub mod unwind_tables;

pub use run::main;
