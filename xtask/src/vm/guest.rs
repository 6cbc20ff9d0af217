//! One guest: booted in QEMU, watched, and ended in time.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::payload::Payload;
use super::report::{Ran, Reader};
use super::{Plan, folder};
use crate::run::say;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// Lines of the console that a failure shows.
const CONSOLE_LINES: usize = 80;
/// What the kernel's last words begin with.
const PANIC: &str = "Kernel panic";

/// Boots a guest, runs its suites, and gives what they said. A guest that breaks off is an outcome, too.
pub(super) fn boot(plan: &Plan, system: &Path, payload: &Payload) -> Result<Ran> {
    let place = folder().join(format!("guest-{}", plan.name()));
    let _old = fs::remove_dir_all(&place);
    fs::create_dir_all(&place)?;
    say(&format!("guest {} (Linux {}, {})", plan.name(), plan.kernel.release, plan.lsm));
    let mut guest = Guest::start(plan, system, payload, &place)?;
    let mut reader = Reader::new(plan.suites.iter().map(|suite| suite.name));
    let broke = guest.watch(plan.limit(), &mut reader)?;
    let ran = reader.end(broke.as_deref());
    if ran.outcomes.iter().any(super::Outcome::failed) {
        show_console(&place);
    }
    Ok(ran)
}

struct Guest {
    qemu: Child,
    console: PathBuf,
    words: PathBuf,
}

impl Guest {
    fn start(plan: &Plan, system: &Path, payload: &Payload, place: &Path) -> Result<Self> {
        let (console, words) = (place.join("console"), place.join("words"));
        let suites: Vec<&str> = plan.suites.iter().map(|suite| suite.name).collect();
        let append = format!(
            "console=ttyS0 root=/dev/vda rw quiet loglevel=4 panic=0 no_timer_check lsm={} systemd.unified_cgroup_hierarchy=1 \
             systemd.show_status=no mitigations=off suites={}",
            plan.lsm,
            suites.join(","),
        );
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-nic", "none"]);
        qemu.arg("-kernel").arg(&plan.kernel.image).arg("-initrd").arg(&plan.kernel.initrd).args(["-append", &append]);
        // What a guest writes goes to a file that ends with it.
        for (disk, mode) in
            [(system, "snapshot=on"), (&payload.disk, "readonly=on"), (&plan.kernel.modules, "readonly=on")]
        {
            qemu.arg("-drive").arg(format!("file={},if=virtio,format=raw,{mode}", disk.display()));
        }
        for port in [&console, &words] {
            qemu.arg("-serial").arg(format!("file:{}", port.display()));
        }
        // Room for that file.
        qemu.env("TMPDIR", place).stdin(Stdio::null()).stdout(Stdio::null());
        let qemu = qemu.spawn().context("cannot start qemu-system-x86_64")?;
        Ok(Self { qemu, console, words })
    }

    /// Reads along until the guest has ended. Gives why, where it did not end by itself.
    fn watch(&mut self, limit: Duration, reader: &mut Reader) -> Result<Option<String>> {
        let start = now();
        let mut read = 0;
        loop {
            let ended = self.qemu.try_wait()?;
            read = self.read(read, reader);
            if let Some(status) = ended {
                return Ok((!status.success()).then(|| format!("QEMU ended: {status}")));
            }
            if fs::read_to_string(&self.console).is_ok_and(|text| text.contains(PANIC)) {
                return Ok(Some("the kernel panicked".to_owned()));
            }
            if start.elapsed() > limit {
                return Ok(Some(format!("the guest was not done after {} s", limit.as_secs())));
            }
            if let Some(late) = reader.late() {
                return Ok(Some(late));
            }
            sleep(LOOK);
        }
    }

    /// What the suites have said since.
    fn read(&self, from: u64, reader: &mut Reader) -> u64 {
        let mut bytes = Vec::new();
        let more = File::open(&self.words).and_then(|mut file| {
            file.seek(SeekFrom::Start(from))?;
            file.read_to_end(&mut bytes)
        });
        // A line that is not whole waits for the next time.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        if more.is_err() || whole == 0 {
            return from;
        }
        String::from_utf8_lossy(bytes.get(..whole).unwrap_or_default()).lines().for_each(|line| reader.line(line));
        from + u64::try_from(whole).unwrap_or(0)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ended = self.qemu.kill();
        let _status = self.qemu.wait();
    }
}

#[expect(clippy::print_stderr, reason = "the console is for the person at the terminal")]
fn show_console(place: &Path) {
    let text = fs::read(place.join("console")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.get(lines.len().saturating_sub(CONSOLE_LINES)..).unwrap_or_default();
    eprintln!("---- the guest's console, {} ----\n{}\n----", place.join("console").display(), last.join("\n"));
}

#[expect(clippy::disallowed_methods, reason = "a task may look at the clock")]
pub(super) fn now() -> Instant {
    Instant::now()
}
