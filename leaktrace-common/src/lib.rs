//! common
#![no_std]

pub mod cookie;
