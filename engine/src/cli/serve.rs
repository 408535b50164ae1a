//! `restage serve`: runs in a browser, on this machine.

use std::{io, net::Ipv4Addr, path::PathBuf, process::ExitCode};

use tokio::net::TcpListener;

use super::{Failure, open_store};
use crate::{
    run::journal,
    serve::{Served, serve},
};

/// Where it is found again after a restart, if nobody else is there.
const PORT: u16 = 8765;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  restage serve                               # all runs in the store, also other people's\n  \
                        restage serve workflows/quickstart.yaml\n\n\
                        From another machine, through a tunnel: ssh -L 8765:127.0.0.1:8765 HOST"
)]
pub(super) struct Arguments {
    /// Only runs of these workflows; by default all in the store
    workflows: Vec<PathBuf>,
    /// The port; by default 8765, or a free one if that is taken. 0 is any free one
    #[arg(long)]
    port: Option<u16>,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error("cannot listen at port {port}")]
    Port { port: u16, source: io::Error },
    #[error("the system gives no random token")]
    Token,
    #[error("no connection can be taken any more")]
    Accept(#[source] io::Error),
}

impl ServeError {
    pub(super) fn help(&self) -> Option<String> {
        match self {
            Self::Port { .. } => Some("give another one, or `--port 0` for any that is free".into()),
            Self::Token | Self::Accept(_) => None,
        }
    }
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let store = open_store()?;
    let mut only = Vec::new();
    for workflow in &arguments.workflows {
        only.push(journal::runs_folder(&std::path::absolute(workflow)?, &store)?);
    }
    let listener = listen(arguments.port).await?;
    let mut token = [0; 16];
    getrandom::fill(&mut token).map_err(|_| ServeError::Token)?;
    let token: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
    say!("http://{}/{token}/", listener.local_addr()?);
    eprintln!("for this machine only, and who has this address; Ctrl-C ends it");
    match serve(listener, Served::new(store, only, token)).await {
        Ok(never) => match never {},
        Err(error) => Err(ServeError::Accept(error).into()),
    }
}

/// At the loopback interface: no other machine gets here.
async fn listen(port: Option<u16>) -> Result<TcpListener, ServeError> {
    let at = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    match port {
        Some(port) => at(port).await.map_err(|source| ServeError::Port { port, source }),
        None => match at(PORT).await {
            Ok(listener) => Ok(listener),
            Err(_) => at(0).await.map_err(|source| ServeError::Port { port: PORT, source }),
        },
    }
}
