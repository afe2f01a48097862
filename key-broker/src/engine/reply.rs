//! An answer of the engine, which the server sends by HTTP.

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Status of HTTP.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// Seconds to wait, where the engine decides them. Those of 429 and 503 depend on the load, which only the server knows.
    pub retry_after: Option<u32>,
}

impl Reply {
    /// Nothing can be said now.
    pub fn unavailable() -> Self {
        Self { status: 503, body: b"{\"state\":\"unavailable\"}\n".to_vec(), retry_after: None }
    }

    /// The session has ended: the node begins again.
    pub const fn ended() -> Self {
        Self { status: 408, body: Vec::new(), retry_after: None }
    }

    /// Too many requests.
    pub fn busy() -> Self {
        Self { status: 429, body: b"{\"state\":\"busy\"}\n".to_vec(), retry_after: None }
    }

    /// Nothing can be said before the broker is unsealed.
    pub fn sealed() -> Self {
        Self { status: 503, body: b"{\"state\":\"sealed\"}\n".to_vec(), retry_after: None }
    }
}
