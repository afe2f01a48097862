//! Reads swtpm's log of level 20: what went through its control channel and its data channel, in order, as hexadecimal dumps under a heading line.

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Control channel, for example "initialise" and "hash start".
    Control(Vec<u8>),
    /// A TPM command.
    Command(Vec<u8>),
    /// The TPM's response to it.
    Response(Vec<u8>),
}

/// The log is not as expected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of swtpm's log: {what}")]
pub struct LogError {
    line: usize,
    what: String,
}

/// All messages. A last one that is still being written is left out.
pub(super) fn messages(log: &str) -> Result<Vec<Message>, LogError> {
    let mut messages = vec![];
    let mut lines = log.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let Some((heading, length)) = line.trim().split_once(": length ") else { continue };
        let make = match heading {
            "Ctrl Cmd" => Message::Control,
            "SWTPM_IO_Read" => Message::Command,
            "SWTPM_IO_Write" => Message::Response,
            _ => continue,
        };
        let error = |what: String| LogError { line: number + 1, what };
        let length: usize = length.parse().map_err(|_| error(format!("{length:?} is not a length")))?;
        let mut bytes = vec![];
        while bytes.len() < length {
            let Some((_, dump)) = lines.next_if(|(_, line)| is_dump(line)) else { break };
            for word in dump.split_whitespace() {
                bytes.push(u8::from_str_radix(word, 16).map_err(|_| error(format!("{word:?} is not a byte")))?);
            }
        }
        match (bytes.len() == length, lines.peek()) {
            (true, _) => messages.push(make(bytes)),
            (false, None) => return Ok(messages),
            (false, Some(_)) => return Err(error(format!("{length} bytes are announced, {} follow", bytes.len()))),
        }
    }
    Ok(messages)
}

/// How many commands have this code, which is behind their tag and their length (TPM 2.0 Library, Part 1, section 18).
pub(super) fn command_count(log: &str, code: u32) -> Result<usize, LogError> {
    let is_counted =
        |message: &Message| matches!(message, Message::Command(bytes) if bytes.get(6..10) == Some(&code.to_be_bytes()));
    Ok(messages(log)?.iter().filter(|message| is_counted(message)).count())
}

fn is_dump(line: &str) -> bool {
    !line.trim().is_empty() && line.split_whitespace().all(|word| word.len() == 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_in_order() {
        let log = " Ctrl Cmd: length 4\n 00 00 00 10 \n Ctrl Rsp: length 4\n 00 00 00 00 \n SWTPM_IO_Read: length 18\n \
                   80 01 00 00 00 0C 00 00 01 44 00 00 00 00 00 00 \n 00 01 \nsome remark\n SWTPM_IO_Write: length 2\n 80 01 \n";
        let mut command = vec![0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0, 0, 0, 0, 0, 0];
        command.push(1);
        let expected =
            vec![Message::Control(vec![0, 0, 0, 16]), Message::Command(command), Message::Response(vec![0x80, 1])];
        assert_eq!(messages(log), Ok(expected));
        assert_eq!((command_count(log, 0x144), command_count(log, 0x131)), (Ok(1), Ok(0)));
    }

    #[test]
    fn an_unfinished_last_message_is_left_out() {
        assert_eq!(messages(" SWTPM_IO_Read: length 3\n 80 01 \n"), Ok(vec![]));
        assert_eq!(messages(" SWTPM_IO_Read: length 3\n"), Ok(vec![]));
    }

    #[test]
    fn a_damaged_log_is_refused() {
        for log in [
            " SWTPM_IO_Read: length 3\n 80 01 \n SWTPM_IO_Write: length 1\n 80 \n",
            " SWTPM_IO_Read: length x\n 80 \n",
            " SWTPM_IO_Read: length 2\n 80 zz \n",
            " SWTPM_IO_Read: length 1\n 80 01 \n x",
        ] {
            assert!(messages(log).is_err(), "{log}");
        }
    }
}
