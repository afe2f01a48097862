//! How a command is written and its response read (TCG TPM 2.0 Library, Part 1, section 18): big-endian, handles first, then authorisations, then parameters.

use std::io::{Read, Write};

use super::{Handle, TpmError};

const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
/// TPM_RS_PW: authorisation by a password, which here is always empty.
const PASSWORD: u32 = 0x4000_0009;
/// Larger responses are none.
const LARGEST: usize = 4096;
/// Tag, size, code.
const HEADER: usize = 10;

/// What authorises the use of one handle.
#[derive(Clone, Copy, Debug)]
pub(super) enum Authorisation {
    /// An empty password.
    Password,
    /// A policy session.
    Policy(Handle),
}

/// A command.
pub(super) struct Command {
    name: &'static str,
    code: u32,
    handles: Vec<u32>,
    authorisations: Vec<Authorisation>,
    parameters: Vec<u8>,
    /// Whether the response has a handle before its parameters.
    gives_handle: bool,
}

impl Command {
    pub fn new(name: &'static str, code: u32) -> Self {
        Self { name, code, handles: vec![], authorisations: vec![], parameters: vec![], gives_handle: false }
    }

    pub fn handle(mut self, handle: Handle) -> Self {
        self.handles.push(handle.0);
        self
    }

    /// A handle whose use is authorised.
    pub fn authorised(mut self, handle: Handle, by: Authorisation) -> Self {
        self.authorisations.push(by);
        self.handle(handle)
    }

    pub fn gives_handle(mut self) -> Self {
        self.gives_handle = true;
        self
    }

    pub fn u8(mut self, number: u8) -> Self {
        self.parameters.push(number);
        self
    }

    pub fn u16(mut self, number: u16) -> Self {
        self.parameters.extend(number.to_be_bytes());
        self
    }

    pub fn u32(mut self, number: u32) -> Self {
        self.parameters.extend(number.to_be_bytes());
        self
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.parameters.extend(bytes);
        self
    }

    /// A TPM2B.
    pub fn sized(self, bytes: &[u8]) -> Self {
        self.u16(bytes.len() as u16).bytes(bytes)
    }

    fn write(&self) -> Vec<u8> {
        let mut body: Vec<u8> = self.handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
        if !self.authorisations.is_empty() {
            let area: Vec<u8> = self.authorisations.iter().flat_map(|by| by.write()).collect();
            body.extend((area.len() as u32).to_be_bytes());
            body.extend(area);
        }
        body.extend(&self.parameters);
        let tag = if self.authorisations.is_empty() { NO_SESSIONS } else { SESSIONS };
        let mut bytes = tag.to_be_bytes().to_vec();
        bytes.extend(((HEADER + body.len()) as u32).to_be_bytes());
        bytes.extend(self.code.to_be_bytes());
        bytes.extend(body);
        bytes
    }

    /// Sends the command and waits for its response.
    pub fn execute(self, channel: &mut (impl Read + Write)) -> Result<Response, TpmError> {
        let lost = |source| TpmError::Channel { command: self.name, source };
        channel.write_all(&self.write()).map_err(lost)?;
        let mut header = [0; HEADER];
        channel.read_exact(&mut header).map_err(lost)?;
        let mut reader = Response { command: self.name, bytes: header.to_vec(), at: 0 };
        let (tag, size, code) = (reader.u16()?, reader.u32()? as usize, reader.u32()?);
        let length = size.checked_sub(HEADER).filter(|length| *length <= LARGEST).ok_or(reader.short())?;
        let mut bytes = vec![0; length];
        channel.read_exact(&mut bytes).map_err(lost)?;
        if code != 0 {
            return Err(TpmError::Refused { command: self.name, code });
        }
        let mut response = Response { command: self.name, bytes, at: 0 };
        if tag == SESSIONS {
            // Size of the parameters, which stands behind the handle.
            let at = if self.gives_handle { 4 } else { 0 };
            if response.bytes.len() < at + 4 {
                return Err(response.short());
            }
            response.bytes.drain(at..at + 4);
        }
        Ok(response)
    }
}

impl Authorisation {
    /// TPMS_AUTH_COMMAND: session, no nonce, "continue" for policies, no HMAC.
    fn write(self) -> Vec<u8> {
        let (session, attributes) = match self {
            Self::Password => (PASSWORD, 0),
            Self::Policy(session) => (session.0, 1),
        };
        [&session.to_be_bytes()[..], &[0, 0, attributes, 0, 0]].concat()
    }
}

/// A response, read from the front.
pub(super) struct Response {
    command: &'static str,
    bytes: Vec<u8>,
    at: usize,
}

impl Response {
    pub fn take(&mut self, count: usize) -> Result<&[u8], TpmError> {
        let end = self.at + count;
        let error = self.short();
        let taken = self.bytes.get(self.at..end).ok_or(error)?;
        self.at = end;
        Ok(taken)
    }

    pub fn u8(&mut self) -> Result<u8, TpmError> {
        Ok(self.take(1)?[0])
    }

    pub fn u16(&mut self) -> Result<u16, TpmError> {
        Ok(self.take(2)?.iter().fold(0, |sum, byte| sum << 8 | u16::from(*byte)))
    }

    pub fn u32(&mut self) -> Result<u32, TpmError> {
        Ok(self.take(4)?.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    }

    /// A TPM2B.
    pub fn sized(&mut self) -> Result<Vec<u8>, TpmError> {
        let length = usize::from(self.u16()?);
        Ok(self.take(length)?.to_vec())
    }

    /// TPMT_SIGNATURE of ECDSA: algorithm and hash, then two numbers.
    pub fn signature(&mut self) -> Result<Vec<u8>, TpmError> {
        let start = self.at;
        self.take(4)?;
        self.sized()?;
        self.sized()?;
        Ok(self.bytes[start..self.at].to_vec())
    }

    fn short(&self) -> TpmError {
        TpmError::Short { command: self.command }
    }
}
