//! `key-broker serve`: everything a running broker consists of, started in order, and ended in order by a signal.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::config::{Config, Limits};
use crate::engine::Engine;
use crate::passphrase::{PassphraseArgs, credential};
use crate::seal::passphrase_of;
use crate::socket::{self, Files};
use crate::{harden, monitoring, server, witness};

/// Serves until a signal ends it.
pub fn run(config: &Config, args: &PassphraseArgs) -> Result<()> {
    harden::process();
    let limits = limits_that_fit(config)?;
    let cluster = std::fs::read(config.file("cluster.json"))
        .with_context(|| format!("Failed to read {}: restore it", config.file("cluster.json").display()))?;
    let engine = Arc::new(Engine::open(&config.file("database"), &cluster, config.settings())?);
    let files = Files::beside(&config.path);
    let tls = server::tls(config, &engine)?;
    let admin = socket::listen(&config.file("admin.sock"))?;
    // Before the runtime: the blocking client has one of its own.
    witness::start(&engine, &config.audit)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("Failed to start")?;
    let socket_path = config.file("admin.sock");
    let served = runtime.block_on(async {
        let bind = |address: SocketAddr| async move {
            let bound = tokio::net::TcpListener::bind(address).await;
            bound.with_context(|| {
                format!("Failed to listen at {address}: free the port, or set an address of this host in broker.toml")
            })
        };
        let listener = bind(config.listen).await?;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        println!("listening on {}", listener.local_addr()?);
        if let Some(address) = config.metrics {
            let metrics = bind(address).await?;
            println!("metrics on {}", metrics.local_addr()?);
            tokio::spawn(monitoring::serve_metrics(metrics, engine.clone(), stopped.clone()));
        }
        std::io::stdout().flush()?;
        socket::serve(admin, engine.clone(), files.clone());
        move_leaves(engine.clone());
        open_at_start(&engine, &files, args);
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            // Nobody listens any more: then it has ended already.
            let _ = stop.send(true);
        });
        server::serve(listener, tls, engine.clone(), limits, stopped).await
    });
    // Threads that never end keep the database open, so nothing closes it.
    if let Err(error) = engine.fold() {
        eprintln!("key-broker: the file database-wal stays beside the database: {error}");
    }
    // The next broker replaces one that is left over.
    let _ = std::fs::remove_file(socket_path);
    served
}

/// The limits of broker.toml, with no more connections than files may be open.
fn limits_that_fit(config: &Config) -> Result<Limits> {
    let mut limits = config.limits.clone();
    let open_files = harden::open_files();
    if limits.fit(open_files)? {
        let (wanted, most) = (config.limits.connections, limits.connections);
        eprintln!(
            "key-broker: connections lowered from {wanted} to {most}: the limit of open files is {open_files}; set LimitNOFILE"
        );
    }
    Ok(limits)
}

/// Moves older leaves of the audit log to files for ever, in a thread of its own: no request waits for these files.
fn move_leaves(engine: Arc<Engine>) {
    const INTERVAL: Duration = Duration::from_secs(1);
    std::thread::spawn(move || {
        engine.remove_abandoned();
        loop {
            engine.move_leaves();
            std::thread::sleep(INTERVAL);
        }
    });
}

/// A broker whose passphrase does not fit stays sealed: it says so, and can be opened by hand.
fn open_at_start(engine: &Arc<Engine>, files: &Files, args: &PassphraseArgs) {
    let Some(path) = args.passphrase_file.clone().or_else(credential) else {
        println!("sealed");
        eprintln!("key-broker: sealed; open it with `key-broker unseal`");
        return;
    };
    let (engine, files) = (engine.clone(), files.clone());
    std::thread::spawn(move || {
        match passphrase_of(&path).and_then(|passphrase| socket::unseal(&engine, &files, &passphrase)) {
            Ok(()) => println!("open"),
            Err(error) => {
                eprintln!("key-broker: stays sealed: {error:#}");
                println!("sealed");
            }
        }
    });
}
