//! A part of a test in another process, which a test may freeze or kill.
//! "Two processes" means two memories: threads share locks and counters that processes do not.
//! 1. A test binary lists its worker functions by name and passes them to [`work`], in a test [`ENTRY`] at its top.
//! 2. [`Worker::spawn`] runs this very binary again, asking for that one test, which an environment variable turns into the
//!    worker. 3. Both sides talk in lines: [`tell`] and [`hear`] there, [`Worker::line`] and [`Worker::send`] here. What else the
//!    worker prints is kept, and shown when a test fails.
//!
//! Invariant: a worker ends with its parent, even one that was killed: its input ends.
//! Invariant: run without the variable, [`work`] returns at once.
//! Not here: the list of workers, which each test binary has at its top.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::pin::Pin;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What a worker function returns.
pub type WorkerFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A worker function: its arguments are those given to [`Worker::spawn`].
pub type WorkerFn = fn(Vec<String>) -> WorkerFuture;

/// The name of the test that becomes a worker. It stands at the top of its binary, where its name is its whole path.
pub const ENTRY: &str = "worker_entry";

/// Names the worker function in the child's environment.
const NAME: &str = "LARDER_TEST_WORKER";

/// Carries the arguments, separated by a character that none of them contains.
const ARGUMENTS: &str = "LARDER_TEST_WORKER_ARGUMENTS";
const SEPARATOR: char = '\u{1f}';

/// Begins the lines that are meant for the parent; the test harness prints lines of its own.
const MARK: &str = "\u{1e}larder-worker:";

/// How long a worker may take to say or do what it is asked for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two looks at a worker that is ending or freezing.
const STEP: Duration = Duration::from_millis(10);

/// The exit status of a worker whose parent is gone.
const ORPHANED: i32 = 3;

/// A running worker, killed on drop.
pub struct Worker {
    name: String,
    process: Child,
    /// Taken only by the test that shows what the end of the input does.
    input: Option<ChildStdin>,
    lines: UnboundedReceiver<String>,
    output: Output,
    readers: Vec<JoinHandle<()>>,
}

/// The signal of `abort`, on every Unix.
const SIGABRT: i32 = 6;

/// What the worker printed for nobody in particular.
type Output = Arc<Mutex<String>>;

impl Worker {
    /// Starts a worker function in a process of its own.
    ///
    /// # Panics
    ///
    /// When the process cannot be started. A name that [`work`] is not given ends the worker; the first line that is waited for
    /// says so.
    #[must_use]
    pub fn spawn(name: &str, arguments: &[&str]) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("a test has an executable"))
            .args([ENTRY, "--exact", "--nocapture", "--test-threads=1"])
            .env(NAME, name)
            .env(ARGUMENTS, arguments.join(&SEPARATOR.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a test can start its own executable");
        let input = process.stdin.take();
        let (sender, lines) = unbounded_channel();
        let output = Output::default();
        let printed = process.stdout.take().expect("the output is piped");
        let errors = process.stderr.take().expect("the errors are piped");
        let readers = vec![
            collect(printed, Some(sender), &output),
            collect(errors, None, &output),
        ];
        Self {
            name: name.to_owned(),
            process,
            input,
            lines,
            output,
            readers,
        }
    }

    /// The next line the worker [`tell`]s.
    ///
    /// # Panics
    ///
    /// When the worker ends or is silent for a minute, with what it printed.
    pub async fn line(&mut self) -> String {
        match tokio::time::timeout(PATIENCE, self.lines.recv()).await {
            Ok(Some(line)) => line,
            Ok(None) => {
                self.settle();
                panic!("worker {self} ended without another word")
            }
            Err(_) => panic!("worker {self} is silent"),
        }
    }

    /// Waits for exactly this line.
    pub async fn expect(&mut self, wanted: &str) {
        let line = self.line().await;
        assert_eq!(line, wanted, "from worker {self}");
    }

    /// Sends a line, which the worker [`hear`]s.
    pub fn send(&mut self, line: &str) {
        let input = self.input.as_mut().expect("the input is open");
        let sent = writeln!(input, "{line}").and_then(|()| input.flush());
        sent.unwrap_or_else(|error| panic!("failed to send to worker {self}: {error}"));
    }

    /// Waits until the worker function returns; it must not panic.
    pub async fn finish(mut self) {
        let status = self.ended().await;
        assert!(status.success(), "worker {self} failed ({status})");
    }

    /// Waits until the worker aborts, as a process that is killed from inside.
    pub async fn aborted(mut self) {
        let status = self.ended().await;
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(
            signal,
            Some(SIGABRT),
            "worker {self} ended otherwise ({status})"
        );
    }

    async fn ended(&mut self) -> ExitStatus {
        let polls = async {
            loop {
                if let Some(status) = self.process.try_wait().expect("a child can be waited for") {
                    return status;
                }
                tokio::time::sleep(STEP).await;
            }
        };
        let Ok(status) = tokio::time::timeout(PATIENCE, polls).await else {
            panic!("worker {self} does not end");
        };
        self.settle();
        status
    }

    /// Kills the worker without warning and waits until it is gone.
    pub fn kill(mut self) {
        self.process
            .kill()
            .expect("a child that was not waited for can be killed");
        self.process.wait().expect("a child can be waited for");
    }

    /// Kills the worker without warning, and returns what it had told by then and nobody has read.
    pub async fn last_words(mut self) -> Vec<String> {
        self.process
            .kill()
            .expect("a child that was not waited for can be killed");
        let mut lines = Vec::new();
        let words = async {
            while let Some(line) = self.lines.recv().await {
                lines.push(line);
            }
        };
        if tokio::time::timeout(PATIENCE, words).await.is_err() {
            panic!("the output of worker {self} does not end");
        }
        lines
    }

    /// Stops the worker in its tracks, as a long pause of its machine would.
    pub async fn freeze(&self) {
        signal(self.process.id(), Signal::STOP);
        let polls = async {
            while !is_frozen(self.process.id()) {
                tokio::time::sleep(STEP).await;
            }
        };
        if tokio::time::timeout(PATIENCE, polls).await.is_err() {
            panic!("worker {self} does not freeze");
        }
    }

    /// Lets it go on after [`Self::freeze`].
    pub fn thaw(&self) {
        signal(self.process.id(), Signal::CONT);
    }
}

impl Worker {
    /// Waits for the last words of a worker that has ended.
    fn settle(&mut self) {
        for reader in self.readers.drain(..) {
            reader
                .join()
                .expect("reading a worker's output does not panic");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself, which is what we want.
        let _killed = self.process.kill();
        let _ended = self.process.wait();
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "`{}`, which printed:\n{}\n", self.name, *output)
    }
}

/// In a worker: sends a line to the parent.
pub fn tell(line: impl fmt::Display) {
    // Not `println!`, which the test harness may redirect.
    let mut output = io::stdout().lock();
    let told = writeln!(output, "{MARK}{line}").and_then(|()| output.flush());
    told.expect("the parent listens");
}

/// In a worker: waits for the next line of the parent.
pub async fn hear() -> String {
    // The end of the input ends the process, so there always is another line to wait for.
    heard()
        .lock()
        .await
        .recv()
        .await
        .expect("the thread that reads never ends")
}

type Heard = tokio::sync::Mutex<UnboundedReceiver<String>>;

/// The lines of the parent; the first use starts to read them.
fn heard() -> &'static Heard {
    static HEARD: OnceLock<Heard> = OnceLock::new();
    HEARD.get_or_init(|| {
        let (sender, receiver) = unbounded_channel();
        std::thread::spawn(move || {
            for line in io::stdin().lock().lines() {
                let Ok(line) = line else { break };
                // The receiver is never dropped.
                let _heard = sender.send(line);
            }
            std::process::exit(ORPHANED);
        });
        tokio::sync::Mutex::new(receiver)
    })
}

/// Sends a signal to a child of ours.
///
/// # Panics
///
/// When the child has been waited for.
pub fn signal(process: u32, signal: Signal) {
    let id = i32::try_from(process).expect("the id of a process is small");
    let id = Pid::from_raw(id).expect("the id of a process is not zero");
    kill_process(id, signal).expect("a child that was not waited for can be signalled");
}

/// Returns whether all threads of a process have stopped; the signal reaches them one after the other.
#[must_use]
pub fn is_frozen(process: u32) -> bool {
    // Systems without this folder show no state; there the signal has at least been sent.
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else {
        return true;
    };
    threads.filter_map(Result::ok).all(|thread| {
        // A thread that ended meanwhile no longer runs either.
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        state.is_empty() || state.starts_with('T')
    })
}

/// Sorts the lines of a worker: marked ones to the channel, others to the collected output.
fn collect(
    stream: impl io::Read + Send + 'static,
    lines: Option<UnboundedSender<String>>,
    output: &Output,
) -> JoinHandle<()> {
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            // The harness prints the name of a test without an end of line, so the mark may follow.
            match (line.split_once(MARK), &lines) {
                (Some((_, told)), Some(lines)) => {
                    // A test that no longer listens does not need the line.
                    let _told = lines.send(told.to_owned());
                }
                _ => {
                    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
                    output.push_str(&line);
                    output.push('\n');
                }
            }
        }
    })
}

/// Becomes the worker that the environment names; otherwise returns at once. A test [`ENTRY`] calls it.
///
/// # Panics
///
/// When no worker of that name is listed, and when the worker panics.
pub fn work(workers: &[(&str, WorkerFn)]) {
    let Ok(name) = std::env::var(NAME) else {
        return;
    };
    let Some((_, function)) = workers.iter().find(|(known, _)| *known == name) else {
        panic!("no worker is registered as `{name}`");
    };
    let arguments = std::env::var(ARGUMENTS).expect("the parent set the arguments");
    let arguments = match &*arguments {
        "" => Vec::new(),
        list => list.split(SEPARATOR).map(str::to_owned).collect(),
    };
    // Starts to watch the input, whose end means that the parent is gone.
    heard();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be built")
        .block_on(function(arguments));
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What the tests of this file run in processes of their own.
    pub(crate) const WORKERS: &[(&str, WorkerFn)] = &[
        ("echo", |arguments| Box::pin(echo(arguments))),
        ("panic", |_| Box::pin(panics())),
    ];

    async fn echo(arguments: Vec<String>) {
        tell(format!(
            "{} with {}",
            std::process::id(),
            arguments.join(" and ")
        ));
        loop {
            let line = hear().await;
            println!("heard {line}");
            if line == "end" {
                return;
            }
            tell(line);
        }
    }

    async fn panics() {
        panic!("on purpose");
    }

    #[tokio::test]
    async fn worker_is_another_process_that_answers() {
        let mut worker = Worker::spawn("echo", &["one", "two words"]);
        let greeting = format!("{} with one and two words", worker.process.id());
        assert_ne!(worker.process.id(), std::process::id());
        worker.expect(&greeting).await;
        worker.send("hello");
        worker.expect("hello").await;
        worker.send("end");
        worker.finish().await;
    }

    #[tokio::test]
    #[should_panic(expected = "on purpose")]
    async fn worker_that_panics_fails_the_test_with_its_output() {
        Worker::spawn("panic", &[]).finish().await;
    }

    #[tokio::test]
    async fn frozen_worker_is_silent_until_it_thaws() {
        let mut worker = Worker::spawn("echo", &[]);
        worker.line().await;
        worker.freeze().await;
        worker.send("hello");
        let early = tokio::time::timeout(Duration::from_millis(150), worker.lines.recv()).await;
        assert!(early.is_err());
        worker.thaw();
        worker.expect("hello").await;
    }

    #[tokio::test]
    async fn worker_without_a_parent_ends() {
        let mut worker = Worker::spawn("echo", &[]);
        worker.line().await;
        // What the death of this process would do.
        worker.input = None;
        let status = worker.process.wait().unwrap();
        assert_eq!(status.code(), Some(ORPHANED));
    }

    #[tokio::test]
    async fn killed_worker_is_gone() {
        let mut worker = Worker::spawn("echo", &[]);
        worker.line().await;
        worker.kill();
    }
}
