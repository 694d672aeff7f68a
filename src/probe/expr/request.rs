// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What a run shows of each call: `--where`, `--args`, and the options that add columns.

use std::rc::Rc;

use anyhow::Result;

use super::code::{PlanError, PlanRequest};
use super::error::ExprError;
use super::lower::NameScope;
use super::parse::{parse, parse_list};
use super::tree::Expr;
use crate::error::Failure;

/// Expressions, each with its own text as its name.
type NamedExprs = Vec<(Rc<str>, Expr)>;

/// What a run shows, for all functions.
pub struct TraceRequest {
    condition: Option<(String, Expr)>,
    args: Option<(String, NamedExprs)>,
    /// Rows come at the return.
    pub returns: bool,
    /// Show the result.
    pub result: bool,
    /// Follow calls until they return, to know which calls they are nested in.
    pub depth: bool,
}

impl TraceRequest {
    /// Parses `--where` and `--args`. Expressions that depend on the return set `returns`.
    ///
    /// # Errors
    /// A usage error that shows the text and the column.
    pub fn parse(condition: Option<&str>, args: Option<&str>) -> Result<TraceRequest> {
        let condition = match condition {
            Some(text) => {
                let expr = parse(text).map_err(|error| usage_error(&error, "--where", text))?;
                Some((text.to_owned(), expr))
            }
            None => None,
        };
        let args = match args {
            Some(text) => Some((text.to_owned(), named(text)?)),
            None => None,
        };
        let mut request = TraceRequest {
            condition,
            args,
            returns: false,
            result: false,
            depth: false,
        };
        let returns = request.exprs().any(Expr::needs_return);
        request.returns = returns;
        Ok(request)
    }

    pub(super) fn exprs(&self) -> impl Iterator<Item = &Expr> {
        let condition = self.condition.iter().map(|(_, expr)| expr);
        let args = self.args.iter().flat_map(|(_, args)| args);
        condition.chain(args.map(|(_, expr)| expr))
    }

    /// True if the results of calls are shown or compared.
    pub fn uses_results(&self) -> bool {
        self.result || self.exprs().any(Expr::names_result)
    }

    /// True if no probe at the entry is needed: everything is known at the return.
    pub fn needs_no_entry(&self) -> bool {
        !self.result && !self.depth && self.args.is_some() && !self.exprs().any(Expr::needs_entry)
    }

    /// Rows come at the entry, and returns only serve to know which calls are nested.
    pub fn is_nesting(&self) -> bool {
        self.depth && !self.returns
    }

    /// The request for a function whose rows come at the return or not.
    pub(super) fn plan(&self, returns: bool) -> PlanRequest<'_> {
        PlanRequest {
            condition: self.condition.as_ref().map(|(_, expr)| expr),
            args: self.args.as_ref().map(|(_, args)| &args[..]),
            returns,
            result: self.result && returns,
        }
    }

    /// A warning if the answer of `--where` depends on the type of a value, which is not known for this function.
    pub(super) fn remark(&self, scope: &NameScope<'_>) -> Option<String> {
        let (text, condition) = self.condition.as_ref()?;
        let (at, name) = scope.untyped_comparison(condition)?;
        let column = ExprError::new(at, "").column(text);
        Some(format!(
            "--where, column {column}: the type of {name} in {} is unknown, and it is compared as 64 bits, in which no int \
             is negative: write (i32){name} for an int, (i64){name} for a long",
            scope.function
        ))
    }

    pub(super) fn usage_error(&self, error: &PlanError) -> anyhow::Error {
        match error {
            PlanError::Condition(error) => {
                let text = self.condition.as_ref().map_or("", |(text, _)| text);
                usage_error(error, "--where", text)
            }
            PlanError::Args(error) => {
                let text = self.args.as_ref().map_or("", |(text, _)| text);
                usage_error(error, "--args", text)
            }
        }
    }
}

fn named(text: &str) -> Result<NamedExprs> {
    let list = parse_list(text).map_err(|error| usage_error(&error, "--args", text))?;
    let name = |expr: &Expr| Rc::from(text.get(expr.at.clone()).unwrap_or_default());
    Ok(list.into_iter().map(|expr| (name(&expr), expr)).collect())
}

fn usage_error(error: &ExprError, option: &str, text: &str) -> anyhow::Error {
    let message = format!("{option}, column {}: {error}", error.column(text));
    let failure = Failure::usage(message).show(error.excerpt(text));
    match &error.hint {
        Some(hint) => failure.hint(hint.clone()).into(),
        None => failure.into(),
    }
}
