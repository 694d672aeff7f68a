// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The traced programs.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// For the compiled programs and the rows.
const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");

/// The file that tracers write to. Removed first: the tracer would otherwise pay for freeing the pages of the last run,
/// and for the writeback that ext4 starts when a truncated file is closed (0.03 us per line).
pub fn fresh_rows_file() -> Result<PathBuf> {
    let file = Path::new(SCRATCH).join("rows");
    match fs::remove_file(&file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(file),
    }
}

/// Compiles `loop.c`.
pub fn compile_loop() -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/run/loop.c");
    let program = Path::new(SCRATCH).join("loop");
    compile(&source, &program)?;
    Ok(program)
}

/// Compiles a program with `functions` functions, which runs until its standard input is closed.
pub fn compile_many(functions: usize) -> Result<PathBuf> {
    let source = Path::new(SCRATCH).join("many.c");
    let program = source.with_extension("");
    let mut text: String = (0..functions)
        .map(|index| format!("void many_{index}(void) {{}}\n"))
        .collect();
    text.push_str("int getchar(void);\nint main(void) { return getchar() != -1; }\n");
    fs::write(&source, text)?;
    compile(&source, &program)?;
    Ok(program)
}

fn compile(source: &Path, program: &Path) -> Result<()> {
    let mut compiler = Command::new("cc");
    compiler
        .args(["-O2", "-Wall", "-pthread", "-o"])
        .args([program, source]);
    let status = compiler.status().context("failed to run cc")?;
    ensure!(status.success(), "failed to compile {}", source.display());
    Ok(())
}

/// A running `loop.c`, which waits for commands.
pub struct LoopProgram {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub libc: PathBuf,
    pub libc_version: String,
    /// The address of malloc in memory.
    malloc_address: u64,
    /// Its file offset in the C library.
    pub malloc_offset: u64,
}

pub struct Burst {
    /// CLOCK_MONOTONIC before the first call.
    pub start_ns: u64,
    /// CPU time of the main thread.
    pub cpu_ns: u64,
}

impl LoopProgram {
    pub fn start(program: &Path, threads: u32) -> Result<Self> {
        let mut command = Command::new(program);
        command
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("failed to start the loop")?;
        let commands = child.stdin.take().context("no pipe")?;
        let mut answers = BufReader::new(child.stdout.take().context("no pipe")?);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        let (address, version) = line
            .trim()
            .split_once(' ')
            .context("the loop printed no address")?;
        let address = u64::from_str_radix(address.trim_start_matches("0x"), 16)?;
        let (libc, offset) = file_at(child.id(), address)?;
        Ok(Self {
            child,
            commands,
            answers,
            libc,
            libc_version: version.to_owned(),
            malloc_address: address,
            malloc_offset: offset,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Makes every thread call malloc and free `calls` times.
    pub fn call(&mut self, calls: u64) -> Result<Burst> {
        self.call_of(calls, "")
    }

    /// The same with a function of `loop.c`, or malloc if `function` is empty.
    pub fn call_of(&mut self, calls: u64, function: &str) -> Result<Burst> {
        self.commands
            .write_all(format!("{calls} {function}\n").as_bytes())?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let (start, cpu) = line.trim().split_once(' ').context("the loop has ended")?;
        Ok(Burst {
            start_ns: start.parse()?,
            cpu_ns: cpu.parse()?,
        })
    }

    /// Whether malloc starts with a breakpoint in this process.
    pub fn has_breakpoint(&self) -> Result<bool> {
        #[cfg(target_arch = "x86_64")]
        const BREAKPOINT: [u8; 1] = [0xcc]; // int3
        #[cfg(target_arch = "aarch64")]
        const BREAKPOINT: [u8; 4] = 0xd420_00a0_u32.to_le_bytes(); // brk 5, reserved for uprobes
        let mut bytes = BREAKPOINT.map(|_| 0);
        File::open(format!("/proc/{}/mem", self.pid()))?.read_exact_at(&mut bytes, self.malloc_address)?;
        Ok(bytes == BREAKPOINT)
    }

    pub fn wait_for_breakpoint(&self, wanted: bool) -> Result<()> {
        let since = Instant::now();
        while self.has_breakpoint()? != wanted {
            let what = if wanted {
                "timed out waiting for a probe on malloc"
            } else {
                "another tracer has a probe on malloc"
            };
            ensure!(since.elapsed() < Duration::from_secs(20), what);
            sleep(Duration::from_micros(200));
        }
        Ok(())
    }
}

impl Drop for LoopProgram {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file that is mapped at an address, and the offset in it.
fn file_at(pid: u32, address: u64) -> Result<(PathBuf, u64)> {
    let parse = |hex: &str| u64::from_str_radix(hex, 16);
    for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [range, _, offset, _, _, path] = fields[..] else {
            continue;
        };
        let (start, end) = range
            .split_once('-')
            .context("unexpected line in /proc/PID/maps")?;
        let (start, end) = (parse(start)?, parse(end)?);
        if (start..end).contains(&address) {
            return Ok((path.into(), address - start + parse(offset)?));
        }
    }
    bail!("malloc is not in a mapped file")
}
