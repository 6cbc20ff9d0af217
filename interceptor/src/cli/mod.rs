//! The command line. One subcommand a file; each listing has a table for people and `--json` for programs.
//!
//! Exit codes: 0 done; 1 the answer is no (a check failed, a recording does not verify, a request was refused);
//! 2 wrong use, or something could not be read or reached.

mod adopt;
mod approvals;
mod ca;
mod check;
mod doctor;
mod enroll;
mod exec;
mod governs;
mod namespaces;
mod output;
pub mod policy;
mod prepare;
pub mod recordings;
mod reload;
mod run;
mod sessions;
mod status;
mod systemd;
mod uninstall;
pub mod whoami;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

pub(crate) use output::Printer;

/// The answer is no.
pub(crate) const REFUSED: u8 = 1;
/// Wrong use, or something could not be read or reached.
pub(crate) const FAILED: u8 = 2;

#[derive(Debug, Parser)]
#[command(
    name = "interceptor",
    version,
    about = "Governs every connection of autonomous agents on this host",
    after_help = "Exit codes: 0 done; 1 the answer is no; 2 wrong use, or something could not be read or reached."
)]
struct Arguments {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = crate::config::DEFAULT_PATH)]
    config: PathBuf,
    /// Admin socket, where it is not the one of the configuration
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon (systemd: Type=notify, reload with SIGHUP)
    Run(run::Arguments),
    /// Validate configuration, policies and schema; prints every error with its file and line
    Check,
    /// Show what this kernel and host offer, what is missing, what that costs, and how to get it; fails where the daemon
    /// cannot run
    Doctor(doctor::Arguments),
    /// Show which identity a process would get, and why or why not
    Whoami {
        /// Process id
        #[arg(long)]
        pid: u32,
    },
    /// Start a program as an agent, held by all that there is: its own user, cgroup and view of files, no capabilities, a
    /// filter of system calls
    Exec(exec::Arguments),
    /// Have systemd start a service as an agent, held in the same way; shows the change first, and can be undone
    Enroll(enroll::Arguments),
    /// Say whether a cgroup is governed, with or without a daemon
    Governs(governs::Arguments),
    /// Have the daemon listen in the network namespace of a governed process before it connects
    Adopt {
        /// Process id
        #[arg(long)]
        pid: u32,
        /// Wait for a line of input, and not for long for the daemon
        #[arg(long, hide = true)]
        when_told: bool,
    },
    /// The same as a hook of a container's runtime (createRuntime), which sends the container's state
    OciHook,
    /// Open network namespaces for a daemon that may not enter them (systemd: interceptor-namespaces.socket starts it)
    Namespaces(namespaces::Arguments),
    /// Show the daemon's state
    Status,
    /// Print metrics as Prometheus reads them
    Metrics,
    /// List live sessions, or end one
    Sessions(sessions::Arguments),
    /// List held commands, show one, approve or deny it
    Approvals(approvals::Arguments),

    /// List, show, replay, verify and export recordings; works offline on a copied spool
    Recordings(recordings::Arguments),
    /// Test and explain policies
    Policy(policy::PolicyArgs),
    /// The host's certificate authority, which agents trust: make, show, rotate, install
    Ca(ca::Arguments),
    /// Load configuration and policies again; a mistake changes nothing
    Reload,
    /// Do as root what the daemon, as a user of its own, may not: before each start, in its cgroup (systemd: ExecStartPre=+)
    Prepare(prepare::Arguments),
    /// Detach the kernel programs: governed processes are free again
    Uninstall,
    /// Print a completion script
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each verb
    Man {
        /// Folder that the pages are written to
        #[arg(long, value_name = "FOLDER")]
        to: Option<PathBuf>,
    },
}

/// What a subcommand needs to know.
pub(crate) struct Context {
    pub(crate) config: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) json: bool,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = Printer::stdout(arguments.json);
    let code = dispatch(arguments, &mut out);
    // A reader that went away (`interceptor sessions | head`) is no failure.
    let _reader_gone = out.flush();
    code
}

impl Context {
    /// The configuration; otherwise its problems, a line each.
    fn configuration(&self) -> Result<crate::config::Config, String> {
        crate::config::read(&self.config)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }
}

fn dispatch(arguments: Arguments, out: &mut Printer) -> ExitCode {
    let socket = arguments.socket.unwrap_or_else(|| {
        crate::config::read(&arguments.config)
            .map_or_else(|_| crate::admin::Config::default().socket, |c| c.admin.socket)
    });
    let context = Context { config: arguments.config, socket, json: arguments.json };
    let done = match arguments.command {
        Command::Run(arguments) => run::run(&context, &arguments, out),
        Command::Check => check::run(&context, out),
        Command::Doctor(arguments) => doctor::run(&context, &arguments, out),
        Command::Whoami { pid } => whoami(&context, pid, out),
        Command::Exec(arguments) => exec::run(&context, &arguments),
        Command::Enroll(arguments) => enroll::run(&context, &arguments, out),
        Command::Governs(arguments) => governs::run(&context, &arguments, out),
        Command::Adopt { pid, when_told: true } => adopt::when_told(&context, pid),
        Command::Adopt { pid, when_told: false } => adopt::run(&context, pid, out),
        Command::OciHook => adopt::hook(&context),
        Command::Namespaces(arguments) => namespaces::run(&context, &arguments),
        Command::Status => status::run(&context, out),
        Command::Metrics => status::metrics(&context, out),
        Command::Sessions(arguments) => sessions::run(&context, &arguments, out),
        Command::Approvals(arguments) => approvals::run(&context, &arguments, out),

        Command::Recordings(arguments) => recorded(&context, &arguments, out),
        Command::Policy(arguments) => policies(&context, arguments, out),
        Command::Ca(arguments) => ca::run(&context, &arguments, out),
        Command::Reload => reload::run(&context, out),
        Command::Prepare(arguments) => prepare::run(&context, &arguments, out),
        Command::Uninstall => uninstall::run(&context, out),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "interceptor", out);
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { to } => match to {
            None => clap_mangen::Man::new(Arguments::command()).render(out),
            Some(folder) => clap_mangen::generate_to(Arguments::command(), folder),
        }
        .map(|()| ExitCode::SUCCESS)
        .map_err(|error| error.to_string()),
    };
    done.unwrap_or_else(|error| {
        let _nobody_reads = writeln!(std::io::stderr(), "interceptor: {error}");
        ExitCode::from(FAILED)
    })
}

fn whoami(context: &Context, pid: u32, out: &mut Printer) -> Result<ExitCode, String> {
    let explained = block_on(crate::app::whoami(&context.config, pid))?;
    let who = explained?;
    let printed = if context.json { whoami::json(&who, out) } else { whoami::table(&who, out) };
    printed.map_err(|error| error.to_string())?;
    let refused = matches!(who.outcome, crate::identity::explain::Outcome::Refused { .. });
    Ok(if refused { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS })
}

fn recorded(context: &Context, arguments: &recordings::Arguments, out: &mut Printer) -> Result<ExitCode, String> {
    let defaults = match crate::config::read(&context.config) {
        Ok(config) => config.record,
        // A copied spool is read on machines that have no configuration.
        Err(_) if arguments.names_spool() => crate::record::Config::default(),
        Err(problems) => return Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    };
    recordings::run(arguments, &defaults, Some(&context.socket), context.json, out).map_err(|error| error.to_string())
}

/// Works without a configuration, too, as far as no statement has to be analysed.
fn policies(context: &Context, mut arguments: policy::PolicyArgs, out: &mut Printer) -> Result<ExitCode, String> {
    let site = crate::app::Site::open(&context.config);
    if let Ok(site) = &site {
        arguments.settle(&site.policies, &site.tags);
    }
    if let Err(why) = &site
        && !arguments.has_folder()
    {
        return Err(format!("{why}\nname the configuration with --config, or the folder with the policies"));
    }
    let analyse = |asked: &policy::cases::Statement<'_>| match &site {
        Ok(site) => block_on(site.understand(asked.target, asked.database, asked.text))?,
        Err(why) => Err(format!("a statement needs the configuration, to ask its target what names mean: {why}")),
    };
    policy::run(&arguments, context.json, out, Some(&analyse)).map(ExitCode::from).map_err(|error| error.to_string())
}

/// Runs one call to the daemon.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| format!("no runtime: {error}"))?.block_on(future))
}
