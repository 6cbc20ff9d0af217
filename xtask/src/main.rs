//! Development tasks: `cargo xtask demo`, `cargo xtask test`, `cargo xtask fuzz`, `cargo xtask
//! differential`, `cargo xtask masks`, `cargo xtask bench`, `cargo xtask ebpf`, `cargo xtask deb`, `cargo xtask vm`.

mod apt;
mod bench;
mod cluster;
mod deb;
mod demo;
mod differential;
mod ebpf;
mod fuzz;
mod install;
mod masks;
mod regress;
mod run;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "interceptor's development tasks")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Watch an unmodified agent be governed against a real PostgreSQL; cleans up after itself
    Demo(demo::Arguments),
    /// Run every test: fast ones first, then those that need root, real servers and real clients
    Test(test::Arguments),
    /// Feed every parser and state machine with generated input, a little while each
    Fuzz(fuzz::Arguments),
    /// Hold every verdict on PostgreSQL's regression suite, and on generated statements, against a real server
    Differential,
    /// Search for ways round the masking with generated queries against a real server
    Masks(masks::Arguments),
    /// Measure speed and memory beside direct connections and other proxies
    Bench(bench::Arguments),
    /// Run PostgreSQL's own regression suite direct and through the driver, and compare
    Regress(regress::Arguments),
    /// Rebuild the committed kernel object from source, or check that it is what the source gives
    Ebpf(ebpf::Arguments),
    /// Make the Debian package
    Deb(deb::Arguments),
    /// Install the package in virtual machines with stock kernels and systemd, and test it there
    Vm(vm::Arguments),
}

#[expect(clippy::print_stderr, reason = "the error is for the person at the terminal")]
fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Differential => differential::run(),
        Task::Masks(arguments) => masks::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Regress(arguments) => regress::run(&arguments),
        Task::Ebpf(arguments) => ebpf::run(&arguments),
        Task::Deb(arguments) => deb::run(&arguments),
        Task::Vm(arguments) => vm::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nfailed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
