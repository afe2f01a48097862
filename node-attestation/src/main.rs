//! A running node's answer to anybody who asks what it is: a quote over PCR 0 to 15, bound to the asker's nonce and to this service's TLS key, with both logs and what a broker certified. `cairn verify-node` asks.
//!
//! It gives away nothing that is not measured or public, and takes nothing but a nonce or a credential. Its TLS key is made when it starts and is never stored.

mod node;
mod places;
mod readiness;
mod request;
mod server;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;

use node::Node;

/// Where it answers.
const PORT: u16 = 7444;

fn main() -> ExitCode {
    match run() {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("cairn: the node cannot show what it is: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<std::convert::Infallible, Box<dyn std::error::Error>> {
    let node = Arc::new(Node::open()?);
    let server = server::Server::new()?;
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let listener = TcpListener::bind(address).map_err(|error| format!("listening at {address}: {error}"))?;
    eprintln!("cairn: answers questions at {address}");
    readiness::tell()?;
    server.serve(&listener, &node)
}
