//! Running guests: one fresh instance for one request, out of a bounded pool.
//!
//! The way of a request through here: a `Tenant` is one guest with its limits, whatever release of it answers.
//! The request waits for a place (`admission`, and the `door` of its class) and a fresh instance of what was
//! `loaded` is called as its world says (`call`, and `worlds`). A guest that has had more of the machine than
//! others waits for its `turns`, and where more comes than can be
//! served, requests are refused by how long others wait (`overload`); what it used is on its `account`, and what is counted of it besides is its
//! `usage`. A `Failure` says what went wrong in the terms of the edge, which decides status codes.
//!
//! The way of a guest: a core `module` is turned into a component, and that is taken apart (`anatomy`), which
//! says what it is (`inspection`), and which `class` of slots it needs; the `engine` of that class's `pool` compiles it, and
//! keeps memory resident where there is no `swap`; imports that are `not_offered` stop a guest that calls them. A `release` keeps what
//! is loaded until others need the room (`host` has what all guests share), and is tried before requests come
//! (`trial`). What cannot be loaded is a `load_error`.
//!
//! This room knows no sockets and no HTTP protocol, only its vocabulary of requests and responses, and not which
//! release of a guest is the current one.

mod account;
mod adapt;
mod admission;
mod anatomy;
mod call;
mod class;
mod client_time;
mod clock;
mod cpu;
mod door;
mod engine;
mod failure;
mod host;
mod inspection;
mod kernel;
mod limits;
mod load_error;
mod loaded;
mod loaders;
mod memory;
mod message;
mod middleware;
mod module;
mod not_offered;
mod overload;
mod pool;
mod rate;
mod release;
mod response;
mod swap;
mod tenant;
mod trial;
mod turns;
mod usage;
mod worlds;

pub(crate) use self::{
    account::take_seat,
    cpu::Meter,
    failure::{Cause, Failure},
    loaded::Loaded,
    memory::Memory,
    message::{Body, BodyError, Request, Response},
    rate::OverRate,
    release::{Fetch, Release, Source},
    swap::SWAPS,
    tenant::Tenant,
    usage::Refused,
    worlds::World,
};
pub use self::{
    host::{Instances, Room, Runtime, Sizes},
    inspection::{Inspection, inspect},
    limits::{Limits, Recordings},
    load_error::LoadError,
    rate::Rate,
};
