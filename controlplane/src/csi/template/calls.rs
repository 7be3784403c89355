//! What a template calls, in every branch of it.
//!
//! The text of a template in, the first function that nobody has out; pure. Go finds such a call
//! when it parses a template (text/template/parse, "function not defined"); the library that
//! renders finds it only where the branch is taken, which may be in the next Pod.

use gotmpl::TemplateError;
use gotmpl::parse::{BranchNode, Expr, ListNode, Node, Parser, PipeNode};

/// Fails with [`TemplateError::UndefinedFunction`] if `text` calls a function that is neither Go's
/// own nor one that `is_ours`, and as parsing does if it is no template.
pub(super) fn check(text: &str, is_ours: impl Fn(&str) -> bool) -> Result<(), TemplateError> {
    let (list, defined) = Parser::new(text, "{{", "}}")?.parse()?;
    let mut called = Vec::new();
    for body in [&list].into_iter().chain(defined.iter().map(|define| &define.body)) {
        of_list(body, &mut called);
    }
    match called.into_iter().find(|name| !GO.contains(name) && !is_ours(name)) {
        Some(name) => Err(TemplateError::UndefinedFunction(name.to_owned())),
        None => Ok(()),
    }
}

fn of_list<'a>(list: &'a ListNode, called: &mut Vec<&'a str>) {
    for node in &list.nodes {
        match node {
            Node::List(list) => of_list(list, called),
            Node::Action(action) => of_pipe(&action.pipe, called),
            Node::If(branch) | Node::Range(branch) | Node::With(branch) => {
                of_branch(branch, called);
            }
            Node::Template(template) => {
                if let Some(pipe) = &template.pipe {
                    of_pipe(pipe, called);
                }
            }
            Node::Define(define) => of_list(&define.body, called),
            // Text, and the ends of a loop.
            _ => {}
        }
    }
}

fn of_branch<'a>(branch: &'a BranchNode, called: &mut Vec<&'a str>) {
    of_pipe(&branch.pipe, called);
    of_list(&branch.body, called);
    if let Some(otherwise) = &branch.else_body {
        of_list(otherwise, called);
    }
}

fn of_pipe<'a>(pipe: &'a PipeNode, called: &mut Vec<&'a str>) {
    for argument in pipe.commands.iter().flat_map(|command| &command.args) {
        of_expression(argument, called);
    }
}

fn of_expression<'a>(expression: &'a Expr, called: &mut Vec<&'a str>) {
    match expression {
        Expr::Identifier(_, name) => called.push(name),
        Expr::Pipe(_, pipe) => of_pipe(pipe, called),
        Expr::Chain(_, start, _) => of_expression(start, called),
        // Values and where they are.
        _ => {}
    }
}

/// The functions of text/template itself.
const GO: [&str; 19] = [
    "and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not", "or",
    "print", "printf", "println", "slice", "urlquery",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_nobody_has_is_found_in_every_branch() {
        for text in [
            "{{ lookup }}",
            "{{ if false }}{{ lookup \"v1\" }}{{ end }}",
            "{{ if true }}a{{ else }}{{ lookup }}{{ end }}",
            "{{ if (lookup | len) }}{{ end }}",
            "{{ with .a }}{{ else with .b }}{{ lookup }}{{ end }}",
            "{{ range .a }}{{ .b | lookup }}{{ end }}",
            "{{ define \"part\" }}{{ lookup }}{{ end }}",
            "{{ template \"part\" (lookup) }}{{ define \"part\" }}{{ end }}",
            "{{ (lookup).name }}",
            "{{ $x := lookup }}",
        ] {
            let refused = check(text, |name| name == "b64enc");
            let found =
                matches!(&refused, Err(TemplateError::UndefinedFunction(name)) if name == "lookup");
            assert!(found, "{text}: {refused:?}");
        }
    }

    #[test]
    fn gos_own_functions_and_ours_are_known() {
        let text = "{{ if and (not .a) (eq .b \"c\") }}{{ printf \"%s\" .d | b64enc }}{{ end }}";
        assert!(check(text, |name| name == "b64enc").is_ok());
        assert!(matches!(check("{{ if }", |_| true), Err(error) if !error.to_string().is_empty()));
    }
}
