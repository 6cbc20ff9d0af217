//! Starting an agent behind everything that holds it: `interceptor exec`.
//!
//! The kernel programs hold whatever speaks IP, in any governed cgroup. The rest (other families of sockets, sockets that
//! somebody else made, local daemons that would do one's bidding) is held by what a process is started with: [`Spec`] says
//! what, [`enter`] does it to the calling process, which then becomes the agent. Nothing of it can be undone from within.
//!
//! Not promised: where the kernel has no Landlock scopes (before 6.12), abstract sockets of local daemons stay in sight of an agent
//! in the host's network; the level says so.

mod capabilities;
pub mod dropin;
mod enter;
mod files;
mod network;
mod seccomp;
mod spec;
mod sweep;
mod sys;

pub use enter::enter;
pub use files::is_covered;
pub use spec::{Request, Spec};
pub use sweep::sweep;
