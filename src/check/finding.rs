//! What was found, how bad it is, and what to do.

use std::fmt;

use serde::Serialize;

/// The kinds of traffic that must be secured, and what they depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    Clients,
    Replication,
    StateTransfer,
    Certificates,
    Host,
    Peer,
}

impl Channel {
    pub const ALL: [Channel; 6] = [
        Channel::Clients,
        Channel::Replication,
        Channel::StateTransfer,
        Channel::Certificates,
        Channel::Host,
        Channel::Peer,
    ];

    fn title(self) -> &'static str {
        match self {
            Channel::Clients => "Clients and this server",
            Channel::Replication => "Replication between nodes",
            Channel::StateTransfer => "State transfer (SST)",
            Channel::Certificates => "Certificates",
            Channel::Host => "This host",
            Channel::Peer => "Peer",
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// It works, but is less secure than it should be, or will stop working soon.
    Warning,
    /// It fails, or does not do what the configuration says.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub channel: Channel,
    pub level: Level,
    pub text: String,
    /// Always there for warnings and errors.
    pub remedy: Option<String>,
}

/// All findings. `Display` makes the table for people.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn ok(&mut self, channel: Channel, text: impl Into<String>) {
        self.add(channel, Level::Ok, text, None::<String>);
    }

    pub fn note(&mut self, channel: Channel, text: impl Into<String>) {
        self.add(channel, Level::Note, text, None::<String>);
    }

    pub fn warning(&mut self, channel: Channel, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(channel, Level::Warning, text, Some(remedy));
    }

    pub fn error(&mut self, channel: Channel, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(channel, Level::Error, text, Some(remedy));
    }

    /// An error from elsewhere, as a finding.
    pub fn failure(&mut self, channel: Channel, level: Level, error: &crate::error::Error) {
        let remedy = error.remedy_text().unwrap_or("fix it and check again");
        self.add(channel, level, error.sentence(), Some(remedy));
    }

    /// What was to be checked could not be read. If this process is not allowed to read it, the node is not at fault.
    pub fn unreadable(&mut self, channel: Channel, error: &crate::error::Error) {
        let level = if error.kind() == crate::error::Kind::Permission { Level::Warning } else { Level::Error };
        self.failure(channel, level, error);
    }

    /// Says the same thing only once, however many channels lead to it.
    fn add(&mut self, channel: Channel, level: Level, text: impl Into<String>, remedy: Option<impl Into<String>>) {
        let finding = Finding { channel, level, text: text.into(), remedy: remedy.map(Into::into) };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    pub fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    /// 0 if nothing is worse than a note, 1 for warnings, 2 for errors, as monitoring expects.
    pub fn exit_code(&self) -> u8 {
        match self.worst() {
            Level::Ok | Level::Note => 0,
            Level::Warning => 1,
            Level::Error => 2,
        }
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for channel in Channel::ALL {
            let mut findings: Vec<&Finding> = self.findings.iter().filter(|f| f.channel == channel).collect();
            if findings.is_empty() {
                continue;
            }
            findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
            writeln!(f, "{}", channel.title())?;
            for finding in findings {
                writeln!(f, "  {:<8} {}", finding.level, finding.text)?;
                if let Some(remedy) = &finding.remedy {
                    writeln!(f, "           -> {remedy}")?;
                }
            }
            writeln!(f)?;
        }
        let (errors, warnings) = (self.count(Level::Error), self.count(Level::Warning));
        let plural = |count| if count == 1 { "" } else { "s" };
        writeln!(f, "{errors} error{}, {warnings} warning{}", plural(errors), plural(warnings))
    }
}
