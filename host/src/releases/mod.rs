//! Releases of guests that the store keeps for all hosts: what runs where, and how it came to that.
//!
//! `model` is what the store holds, `store` the operations on it, and `hosts` which hosts there are. Each host follows
//! the store (`follower`) and exchanges what the registry answers by. `deploying` is what the admin listener asks
//! for. ARCHITECTURE.md has the argument why no answer of an older release comes after a deployment has returned.

mod deploying;
mod disk;
mod follower;
mod hosts;
mod model;
mod store;
mod stored;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    deploying::{Deployment, Made, Rollout, Where},
    follower::{Found, Releases},
    hosts::Record,
    model::{Change, Component, Head},
    store::{Error, Store},
};
