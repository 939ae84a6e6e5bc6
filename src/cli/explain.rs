//! `atlas explain URL`: what would serve a request, and which lines of the file decide it.

use std::process::ExitCode;

use clap::Args;

use super::{File, Output};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: File,
    #[command(flatten)]
    output: Output,
    /// The method of the request.
    #[arg(short = 'X', long = "request", value_name = "METHOD", default_value = "GET")]
    method: http::Method,
    /// A field of the request, `Name: value`; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    fields: Vec<String>,
    /// What is asked for: `https://a.example/path`.
    url: String,
}

/// Says it and ends.
pub(super) fn explain(arguments: &Arguments) -> ExitCode {
    let _ = (
        &arguments.file,
        arguments.output,
        &arguments.method,
        &arguments.fields,
        &arguments.url,
    );
    ExitCode::SUCCESS
}
