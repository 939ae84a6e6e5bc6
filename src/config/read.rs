//! From TOML values with their places to typed values with their places; collects what is wrong.

use std::ops::Range;
use std::path::PathBuf;

use toml::de::DeValue;

use super::error::{Diagnostic, nearest};

/// A value, and where it was written.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its bytes in the file.
    pub span: Range<usize>,
    /// The bytes of its key, or of the value where there is no key.
    pub key: Range<usize>,
}

/// A table that is written in the file with a name: `[upstream.NAME]`.
pub type Named<T> = Vec<(At<String>, T)>;

/// Where a value stands.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// The key it is the value of.
    pub key: &'a str,
    /// The bytes of that key.
    pub key_span: Range<usize>,
    /// The bytes of the value.
    pub span: Range<usize>,
}

impl Place<'_> {
    /// Whether it is one of several in a list.
    fn is_member(&self) -> bool {
        self.key_span == self.span
    }

    /// Key and value; of a table with a header of its own, which may stand far away, the key only.
    pub fn extent(&self, value: &DeValue<'_>) -> Range<usize> {
        let is_near =
            !matches!(value, DeValue::Table(_) | DeValue::Array(_)) || self.key_span.end < self.span.start;
        match is_near {
            true => self.key_span.start..self.span.end.max(self.key_span.end),
            false => self.key_span.clone(),
        }
    }
}

/// What can be read from a TOML value.
pub trait Read: Sized {
    /// What is expected, for messages and for the documentation: `a number`.
    const EXPECTS: &'static str;
    /// For a table: as its header is written.
    const HEADER: &'static str = "";

    /// Reads it, or says what is wrong with it.
    fn read(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<Self>;
}

/// What is wrong with a word, in the words of the type it should be.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

impl Wrong {
    /// Puts the two together.
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: help.into(),
        }
    }
}

/// What is written as a TOML string and has a form of its own.
pub trait Word: Sized {
    /// What is expected: `a time`.
    const EXPECTS: &'static str;
    /// One that is right, as it is written in the file: `"30s"`.
    const EXAMPLE: &'static str;
    /// The diagnostics' code for one that is wrong.
    const CODE: &'static str;

    /// Reads it.
    fn parse(text: &str) -> Result<Self, Wrong>;
}

impl<T: Word> Read for T {
    const EXPECTS: &'static str = <T as Word>::EXPECTS;

    fn read(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<Self> {
        let text = match value {
            // Nothing needs no unit.
            DeValue::Integer(number) if T::CODE == "bad-size" && number.to_string() == "0" => Some("0B"),
            _ => value.as_str(),
        };
        let Some(text) = text else {
            let example = if let DeValue::Integer(number) = value {
                instead_of_number::<T>(&number.to_string())
            } else {
                T::EXAMPLE.to_owned()
            };
            let help = match place.is_member() {
                true => format!("write: {example}"),
                false => format!("write: {} = {example}", place.key),
            };
            found.push(wrong_type::<T>(value, place).help(help));
            return None;
        };
        T::parse(text)
            .map_err(|wrong| {
                found.push(Diagnostic::error(T::CODE, place.span.clone(), wrong.message).help(wrong.help));
            })
            .ok()
    }
}

/// For a bare number: the same with the unit that is meant most often, or the example.
fn instead_of_number<T: Word>(number: &str) -> String {
    let with_unit = match T::CODE {
        "bad-time" => format!("{number}s"),
        "bad-size" => format!("{number}B"),
        _ => return T::EXAMPLE.to_owned(),
    };
    // Less than nothing, and a time of nothing, are wrong with a unit as well.
    match T::parse(&with_unit) {
        Ok(_) => format!("\"{with_unit}\""),
        Err(_) => T::EXAMPLE.to_owned(),
    }
}

/// A value of the wrong kind.
pub fn wrong_type<T: Read>(value: &DeValue<'_>, place: &Place<'_>) -> Diagnostic {
    let message = format!("`{}` must be {}, not {}", place.key, T::EXPECTS, kind(value));
    Diagnostic::error("wrong-type", place.span.clone(), message)
}

/// What a value is, with its article.
pub fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

impl Read for bool {
    const EXPECTS: &'static str = "true or false";

    fn read(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<Self> {
        let read = value.as_bool();
        if read.is_none() {
            let help = match value.as_str() {
                Some(word @ ("true" | "false")) => format!("write it without quotes: {} = {word}", place.key),
                Some("on" | "yes") => format!("write: {} = true", place.key),
                Some("off" | "no") => format!("write: {} = false", place.key),
                _ => format!("write: {key} = true, or: {key} = false", key = place.key),
            };
            found.push(wrong_type::<Self>(value, place).help(help));
        }
        read
    }
}

impl Read for String {
    const EXPECTS: &'static str = "a string";

    fn read(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<Self> {
        let Some(text) = value.as_str() else {
            let help = match value {
                DeValue::Integer(number) => format!("write it in quotes: {} = \"{number}\"", place.key),
                _ => format!("write: {} = \"…\"", place.key),
            };
            found.push(wrong_type::<Self>(value, place).help(help));
            return None;
        };
        let wrong = if text.is_empty() {
            Some("is empty")
        } else if text.contains(|letter: char| letter.is_control()) {
            Some("holds a control character")
        } else {
            return Some(text.to_owned());
        };
        let message = format!("`{}` {}", place.key, wrong.unwrap_or_default());
        found.push(
            Diagnostic::error("bad-value", place.span.clone(), message)
                .help(format!("write: {} = \"…\", or leave it out", place.key)),
        );
        None
    }
}

impl Read for PathBuf {
    const EXPECTS: &'static str = "a path";

    fn read(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<Self> {
        if value.as_str().is_none() {
            let help = format!("write: {} = \"/path\"", place.key);
            found.push(wrong_type::<Self>(value, place).help(help));
            return None;
        }
        String::read(value, place, found).map(Self::from)
    }
}

/// A whole number within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<const LEAST: u64, const MOST: u64>(pub u64);

impl<const LEAST: u64, const MOST: u64> Read for Number<LEAST, MOST> {
    const EXPECTS: &'static str = "a whole number";

    fn read(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<Self> {
        let DeValue::Integer(number) = value else {
            let digits = value.as_str().and_then(|text| text.parse::<u64>().ok());
            let help = match digits.filter(|number| (LEAST..=MOST).contains(number)) {
                Some(number) => format!("write it without quotes: {} = {number}", place.key),
                None => format!("write a number from {LEAST} to {MOST}"),
            };
            found.push(wrong_type::<Self>(value, place).help(help));
            return None;
        };
        let read = u64::from_str_radix(&number.as_str().replace('_', ""), number.radix())
            .ok()
            .filter(|number| (LEAST..=MOST).contains(number));
        if read.is_none() {
            let message = format!("`{}` is out of range: {number}", place.key);
            let help = format!("write a number from {LEAST} to {MOST}");
            found.push(Diagnostic::error("out-of-range", place.span.clone(), message).help(help));
        }
        read.map(Self)
    }
}

/// A list; its members have the places of their own.
impl<T: Read> Read for Vec<At<T>> {
    const EXPECTS: &'static str = "a list";

    fn read(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<Self> {
        let DeValue::Array(members) = value else {
            let help = match value.as_str() {
                Some(text) => format!("write it in brackets: {} = [\"{text}\"]", place.key),
                None => format!("write a list: {} = [\"…\"]", place.key),
            };
            found.push(wrong_type::<Self>(value, place).help(help));
            return None;
        };
        let read = |member: &toml::Spanned<DeValue<'_>>| {
            let place = Place {
                key: place.key,
                key_span: member.span(),
                span: member.span(),
            };
            at(member.get_ref(), &place, found)
        };
        Some(members.iter().filter_map(read).collect())
    }
}

/// Reads a value and keeps its place.
pub fn at<T: Read>(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<At<T>> {
    T::read(value, place, found).map(|value| At {
        value,
        span: place.span.clone(),
        key: place.key_span.clone(),
    })
}

/// `[[route]]`: tables one after the other.
#[derive(Debug)]
pub struct Many<T>(pub Vec<T>);

impl<T> Default for Many<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Read> Read for Many<T> {
    const EXPECTS: &'static str = "tables in double brackets";

    fn read(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<Self> {
        let DeValue::Array(members) = value else {
            let help = format!("there may be several: write {}", T::HEADER);
            found.push(wrong_type::<Self>(value, place).help(help));
            return None;
        };
        let mut tables = Vec::with_capacity(members.len());
        for member in members.iter() {
            let place = Place {
                key: place.key,
                key_span: member.span(),
                span: member.span(),
            };
            tables.extend(T::read(member.get_ref(), &place, found));
        }
        Some(Self(tables))
    }
}

/// `[listen]` or `[[listen]]`.
#[derive(Debug)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<T: Read> Read for OneOrMany<T> {
    const EXPECTS: &'static str = "a table, or tables";

    fn read(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<Self> {
        match value {
            DeValue::Array(_) => Many::read(value, place, found).map(|Many(tables)| Self(tables)),
            DeValue::Table(_) => T::read(value, place, found).map(|table| Self(vec![table])),
            _ => {
                found.push(wrong_type::<Self>(value, place).help(format!("write a table: [{}]", place.key)));
                None
            }
        }
    }
}

/// Members of a table whose keys are names; in the order of the file.
impl<T: Read> Read for Named<T> {
    const EXPECTS: &'static str = "tables with a name";

    fn read(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<Self> {
        let DeValue::Table(table) = value else {
            let help = format!("give it a name: [{}.NAME]", place.key);
            found.push(wrong_type::<Self>(value, place).help(help));
            return None;
        };
        let mut read = Self::with_capacity(table.len());
        for (name, value) in table.iter() {
            let place = Place {
                key: name.get_ref(),
                key_span: name.span(),
                span: value.span(),
            };
            if let Some(member) = T::read(value.get_ref(), &place, found) {
                let name = At {
                    value: name.get_ref().to_string(),
                    span: name.span(),
                    key: name.span(),
                };
                read.push((name, member));
            }
        }
        read.sort_by_key(|(name, _)| name.span.start);
        Some(read)
    }
}

/// What a key is called, what it means and what it is when it is left out.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What it takes.
    pub takes: &'static str,
    /// What holds when it is left out, as it is written; or `required`, or words.
    pub default: &'static str,
    /// What it means.
    pub means: &'static str,
}

/// What other proxies call a key, and what it is called here.
const ALIASES: &[(&str, &str)] = &[
    ("backend", "upstream"),
    ("bind", "address"),
    ("nameserver", "resolver"),
    ("nameservers", "resolver"),
    ("valid", "ttl_max"),
    ("certificate_key", "key"),
    ("check", "health"),
    ("expect", "status"),
    ("endpoints_files", "endpoints_file"),
    ("file_sd_configs", "endpoints_file"),
    ("fail_timeout", "ejection_time"),
    ("health_check", "health"),
    ("httpchk", "path"),
    ("inter", "interval"),
    ("keepalive", "pool_idle_max"),
    ("keepalive_lifetime", "pool_lifetime"),
    ("keepalive_time", "pool_lifetime"),
    ("keepalive_timeout", "pool_idle_timeout"),
    ("location", "path"),
    ("match", "status"),
    ("max_fails", "failures"),
    ("outlier_detection", "outliers"),
    ("proxy_pass", "upstream"),
    ("return", "respond"),
    ("reverse_proxy", "upstream"),
    ("root", "files"),
    ("rewrite", "redirect"),
    ("slowstart", "slow_start"),
    ("server", "endpoints"),
    ("server_name", "host"),
    ("servers", "endpoints"),
    ("ssl_certificate", "cert"),
    ("ssl_certificate_key", "key"),
    ("ssl_protocols", "min_version"),
    ("uri", "path"),
    ("worker_connections", "connections_max"),
    ("worker_processes", "workers"),
];

/// A table of the file, with all its keys.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// As its header is written: `[upstream.NAME]`.
    pub header: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Its keys, in the order of the documentation.
    pub keys: &'static [Key],
}

impl Table {
    /// A key that this table does not have, and the one of its keys that was meant.
    pub fn unknown(
        &self,
        key: &str,
        span: Range<usize>,
        tables: &[Self],
    ) -> (Diagnostic, Option<&'static str>) {
        let names = || self.keys.iter().map(|key| key.name);
        // In an upstream `server_name` is rather the one of its TLS.
        let is_own = key == "server_name" && self.header.starts_with("[upstream");
        let alias = ALIASES.iter().find(|(alias, _)| *alias == key && !is_own);
        let alias = alias.map(|(_, name)| *name);
        let own = names().find(|name| Some(*name) == alias);
        let below = alias.filter(|_| own.is_none());
        let below = below.and_then(|alias| self.below(alias, tables));
        let near = own.or_else(|| nearest(key, names()).filter(|_| below.is_none()));
        let help = below
            .or_else(|| near.map(|name| format!("did you mean `{name}`?")))
            .or_else(|| self.longer(key))
            .or_else(|| self.elsewhere(key, tables));
        let help = help.unwrap_or_else(|| format!("known here: {}", names().collect::<Vec<_>>().join(", ")));
        let place = match self.header {
            "" => "at the top of the file".to_owned(),
            header => format!("in `{header}`"),
        };
        let message = format!("unknown key `{key}` {place}");
        (Diagnostic::error("unknown-key", span, message).help(help), near)
    }

    /// Keys of this table that have the written one as a part: `connect_timeout` and others for `timeout`.
    fn longer(&self, key: &str) -> Option<String> {
        let names = self.keys.iter().map(|known| known.name);
        let longer = names.filter(|name| name.split('_').any(|part| part == key));
        let longer: Vec<_> = longer.map(|name| format!("`{name}`")).collect();
        match longer.as_slice() {
            [] => None,
            [only] => Some(format!("did you mean {only}?")),
            several => Some(format!("did you mean one of {}?", several.join(", "))),
        }
    }

    /// What another proxy has in the table itself, and stands in one below it here.
    fn below(&self, name: &str, tables: &[Self]) -> Option<String> {
        let mut below = tables.iter().filter(|table| self.distance(table) == 0);
        let table = below.find(|table| table.has(name))?;
        Some(format!("did you mean `{name}` of `{}`?", table.header))
    }

    /// The nearest table that has the key.
    fn elsewhere(&self, key: &str, tables: &[Self]) -> Option<String> {
        let with_key = tables.iter().filter(|table| table.has(key));
        let table = with_key.min_by_key(|table| self.distance(table))?;
        Some(match table.header {
            "" => format!("`{key}` stands at the top of the file, before all tables"),
            header => format!("`{key}` is a key of `{header}`"),
        })
    }

    fn has(&self, key: &str) -> bool {
        self.keys.iter().any(|known| known.name == key)
    }

    /// How far another table is from this one: 0 below it, 1 above it, 2 elsewhere.
    fn distance(&self, other: &Self) -> usize {
        let is_below = |above: &Self, below: &Self| {
            let [above, below] = [above, below].map(|table| table.header.trim_matches(['[', ']']));
            let rest = below.strip_prefix(above);
            rest.is_some_and(|rest| rest.starts_with('.'))
        };
        match (is_below(self, other), is_below(other, self)) {
            (true, _) => 0,
            (_, true) => 1,
            _ => 2,
        }
    }
}

/// Defines a table as it is written: one optional field a key, so that all that is wrong is found.
macro_rules! table {
    (
        $(#[doc = $about:literal])+
        $name:ident $header:literal {
            $($(#[doc = $means:literal])+ $key:ident: $type:ty = $default:literal,)*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Default)]
        pub struct $name {
            /// Its header, or all of it where it is written in braces.
            pub span: std::ops::Range<usize>,
            /// The keys that are there, right or wrong, and their lines.
            pub written: Vec<(&'static str, std::ops::Range<usize>)>,
            $($(#[doc = $means])+ pub $key: Option<$crate::config::read::At<$type>>,)*
        }

        impl $name {
            /// Its keys.
            pub const TABLE: $crate::config::read::Table = $crate::config::read::Table {
                header: $header,
                about: concat!($($about,)+),
                keys: &[$($crate::config::read::Key {
                    name: $crate::config::read::bare(stringify!($key)),
                    takes: <$type as $crate::config::read::Read>::EXPECTS,
                    default: $default,
                    means: concat!($($means,)+),
                },)*],
            };

            /// Its header and its keys with their values, in the order of the file.
            pub fn places(&self) -> Vec<std::ops::Range<usize>> {
                self.places_of(&self.written.iter().map(|(key, _)| *key).collect::<Vec<_>>())
            }

            /// As [`Self::places`], of some keys.
            pub fn places_of(&self, keys: &[&str]) -> Vec<std::ops::Range<usize>> {
                let is_wanted = |written: &&(&str, std::ops::Range<usize>)| keys.contains(&written.0);
                let wanted = self.written.iter().filter(is_wanted).map(|(_, span)| span.clone());
                let mut places: Vec<_> = std::iter::once(self.span.clone()).chain(wanted).collect();
                places.sort_by_key(|place| place.start);
                places
            }

            /// Whether a key is there, right or wrong.
            pub fn has(&self, key: &str) -> bool {
                self.written.iter().any(|(name, _)| *name == key)
            }
        }

        impl $crate::config::read::Read for $name {
            const EXPECTS: &'static str = "a table";
            const HEADER: &'static str = $header;

            fn read(
                value: &toml::de::DeValue<'_>,
                place: &$crate::config::read::Place<'_>,
                found: &mut Vec<$crate::config::error::Diagnostic>,
            ) -> Option<Self> {
                let toml::de::DeValue::Table(table) = value else {
                    let help = format!("write a table: {}", $header);
                    found.push($crate::config::read::wrong_type::<Self>(value, place).help(help));
                    return None;
                };
                let mut read = Self { span: place.span.clone(), ..Self::default() };
                for (key, value) in table.iter() {
                    let place = $crate::config::read::Place {
                        key: key.get_ref(),
                        key_span: key.span(),
                        span: value.span(),
                    };
                    match &**key.get_ref() {
                        $(name if name == $crate::config::read::bare(stringify!($key)) => {
                            read.written.push(($crate::config::read::bare(stringify!($key)), place.extent(value.get_ref())));
                            read.$key = $crate::config::read::at(value.get_ref(), &place, found);
                        })*
                        name => {
                            let tables = $crate::config::file::TABLES;
                            let (unknown, meant) = Self::TABLE.unknown(name, key.span(), tables);
                            found.push(unknown);
                            // What was meant is not missing as well.
                            read.written.extend(meant.map(|meant| (meant, key.span())));
                        }
                    }
                }
                Some(read)
            }
        }
    };
}
pub(in crate::config) use table;

/// A key's name, without the `r#` that Rust wants before some.
pub const fn bare(name: &str) -> &str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// Defines a value that is written short or as a table.
macro_rules! short_or_table {
    ($(#[doc = $about:literal])+ $name:ident $short:ty, $table:ty, $expects:literal) => {
        $(#[doc = $about])+
        #[derive(Debug)]
        pub enum $name {
            /// The short form.
            Short($short),
            /// All of it.
            Table(Box<$table>),
        }

        impl $crate::config::read::Read for $name {
            const EXPECTS: &'static str = $expects;

            fn read(
                value: &toml::de::DeValue<'_>,
                place: &$crate::config::read::Place<'_>,
                found: &mut Vec<$crate::config::error::Diagnostic>,
            ) -> Option<Self> {
                if value.is_table() {
                    let table = <$table as $crate::config::read::Read>::read(value, place, found);
                    return table.map(Box::new).map(Self::Table);
                }
                <$short as $crate::config::read::Read>::read(value, place, found).map(Self::Short)
            }
        }
    };
}
pub(in crate::config) use short_or_table;
