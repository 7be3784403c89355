use super::*;
use crate::source::manifest;

/// Two callers of namespace `ci`, one of `prod`, and two connectors in each namespace.
const CALLERS: &str = r#"
apiVersion: v1
kind: SecretList
items:
- type: kubernetes.io/service-account-token
  metadata: {name: a, namespace: ci, annotations: {kubernetes.io/service-account.name: builder}}
  stringData: {token: token-of-builder}
- type: kubernetes.io/service-account-token
  metadata: {name: b, namespace: ci, annotations: {kubernetes.io/service-account.name: tester}}
  stringData: {token: token-of-tester}
- type: kubernetes.io/service-account-token
  metadata: {name: a, namespace: prod, annotations: {kubernetes.io/service-account.name: builder}}
  stringData: {token: token-of-prod}
---
"#;

fn table(rights: &str) -> (Table, Vec<String>) {
    let mut objects = Objects::default();
    let text = format!("{CALLERS}{rights}");
    manifest::read(&"a.yaml".into(), text.as_bytes(), &mut objects).unwrap();
    let connectors = [("ci", "harbor"), ("ci", "other"), ("prod", "harbor"), ("prod", "other")]
        .map(|(namespace, name)| ConnectorRef::new(namespace, name));
    let mut problems = Vec::new();
    let table = Table::new(&objects, connectors, &mut problems);
    (table, problems.iter().map(ToString::to_string).collect())
}

fn verdict(table: &Table, token: &str, connector: &str) -> Verdict {
    let connector =
        connector.split_once('/').map(|(namespace, name)| ConnectorRef::new(namespace, name));
    table.verdict(&Token::new(token.as_bytes().to_vec()), connector.as_ref())
}

/// Who may use which of the four connectors under these rights.
fn matrix(rights: &str) -> String {
    let (table, problems) = table(rights);
    assert_eq!(problems, Vec::<String>::new());
    let mut allowed = Vec::new();
    for caller in ["builder", "tester", "prod"] {
        for connector in ["ci/harbor", "ci/other", "prod/harbor", "prod/other"] {
            match verdict(&table, &format!("token-of-{caller}"), connector) {
                Verdict::Allowed(_) => allowed.push(format!("{caller}:{connector}")),
                Verdict::Denied(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    allowed.join(" ")
}

const RBAC: &str = "apiVersion: rbac.authorization.k8s.io/v1";

/// A Role in `ci` with this rule, bound there to `builder`.
fn with_rule(rule: &str) -> String {
    matrix(&format!(
        "{RBAC}\nkind: Role\nmetadata: {{name: r, namespace: ci}}\nrules: [{rule}]\n---\n{RBAC}\n\
         kind: RoleBinding\nmetadata: {{name: b, namespace: ci}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}}\n\
         subjects: [{{kind: ServiceAccount, name: builder}}]\n"
    ))
}

#[test]
fn a_rule_grants_what_the_api_server_would_grant() {
    let both = "builder:ci/harbor builder:ci/other";
    let group = "apiGroups: [connectors.alauda.io]";
    for (rule, expected) in [
        (format!("{{{group}, resources: [connectors], verbs: [get]}}"), both),
        (format!("{{{group}, resources: ['*'], verbs: [get]}}"), both),
        (format!("{{{group}, resources: [connectors], verbs: ['*']}}"), both),
        ("{apiGroups: ['*'], resources: ['*'], verbs: ['*']}".into(), both),
        (format!("{{{group}, resources: [connectors], verbs: [list, watch]}}"), ""),
        (format!("{{{group}, resources: [connectors/proxy], verbs: [get]}}"), ""),
        (format!("{{{group}, resources: [connectors/*], verbs: [get]}}"), ""),
        ("{apiGroups: [''], resources: [connectors], verbs: [get]}".into(), ""),
        ("{nonResourceURLs: ['*'], verbs: ['*']}".into(), ""),
        (
            format!("{{{group}, resources: [connectors], verbs: [get], resourceNames: [harbor]}}"),
            "builder:ci/harbor",
        ),
        (format!("{{{group}, resources: [connectors], verbs: [get], resourceNames: ['*']}}"), ""),
        (format!("{{{group}, resources: [connectors], verbs: [get], resourceNames: []}}"), both),
    ] {
        assert_eq!(with_rule(&rule), expected, "{rule}");
    }
}

/// A ClusterRole over all connectors, bound by `kind` to `subjects`.
fn with_subjects(kind: &str, namespace: &str, subjects: &str) -> String {
    matrix(&format!(
        "{RBAC}\nkind: ClusterRole\nmetadata: {{name: r}}\n\
         rules: [{{apiGroups: [connectors.alauda.io], resources: [connectors], verbs: [get], \
         resourceNames: [harbor]}}]\n---\n{RBAC}\nkind: {kind}\nmetadata: {{name: b{namespace}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: r}}\n\
         subjects: [{subjects}]\n"
    ))
}

#[test]
fn a_binding_reaches_the_subjects_it_names_and_no_further() {
    let ci = ", namespace: ci";
    let builder = "{kind: ServiceAccount, name: builder, namespace: ci}";
    for (kind, namespace, subjects, expected) in [
        ("RoleBinding", ci, builder, "builder:ci/harbor"),
        ("RoleBinding", ", namespace: prod", builder, "builder:prod/harbor"),
        ("ClusterRoleBinding", "", builder, "builder:ci/harbor builder:prod/harbor"),
        ("ClusterRoleBinding", "", "{kind: ServiceAccount, name: builder}", ""),
        (
            "RoleBinding",
            ci,
            "{kind: User, name: 'system:serviceaccount:prod:builder'}",
            "prod:ci/harbor",
        ),
        (
            "RoleBinding",
            ci,
            "{kind: Group, name: 'system:serviceaccounts:ci'}",
            "builder:ci/harbor tester:ci/harbor",
        ),
        (
            "RoleBinding",
            ci,
            "{kind: Group, name: 'system:authenticated'}",
            "builder:ci/harbor tester:ci/harbor prod:ci/harbor",
        ),
        ("RoleBinding", ci, "{kind: Group, name: 'system:masters'}", ""),
        ("RoleBinding", ci, "{kind: User, name: builder}", ""),
    ] {
        assert_eq!(with_subjects(kind, namespace, subjects), expected, "{kind} {subjects}");
    }
}

#[test]
fn a_token_alone_is_allowed_and_a_wrong_one_is_not_authenticated() {
    let (table, _) = table("");
    let Verdict::Allowed(caller) = verdict(&table, "token-of-builder", "") else {
        panic!("a good token is allowed where no connector is named");
    };
    assert_eq!(&*caller.user, "system:serviceaccount:ci:builder");
    for wrong in ["", "token-of-builde", "token-of-builder ", "Token-of-builder"] {
        assert_eq!(verdict(&table, wrong, "ci/harbor"), Verdict::Unauthenticated);
    }
}

#[test]
fn an_unknown_connector_is_denied_whatever_the_rights() {
    let (table, _) = table(&format!(
        "{RBAC}\nkind: ClusterRole\nmetadata: {{name: all}}\n\
         rules: [{{apiGroups: ['*'], resources: ['*'], verbs: ['*']}}]\n---\n{RBAC}\n\
         kind: ClusterRoleBinding\nmetadata: {{name: b}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: all}}\n\
         subjects: [{{kind: Group, name: 'system:serviceaccounts'}}]\n"
    ));
    assert!(matches!(verdict(&table, "token-of-tester", "prod/other"), Verdict::Allowed(_)));
    assert!(matches!(verdict(&table, "token-of-tester", "prod/absent"), Verdict::Denied(_)));
}

#[test]
fn what_cannot_grant_anything_is_a_problem() {
    let (table, problems) = table(&format!(
        "{RBAC}\nkind: RoleBinding\nmetadata: {{name: b, namespace: ci}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: absent}}\n---\n{RBAC}\n\
         kind: ClusterRoleBinding\nmetadata: {{name: b}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}}\n---\n{RBAC}\n\
         kind: ClusterRole\nmetadata: {{name: sum}}\naggregationRule: {{}}\nrules: []\n---\n\
         apiVersion: v1\nkind: SecretList\nitems:\n\
         - {{type: kubernetes.io/service-account-token, metadata: {{name: nameless}}}}\n\
         - type: kubernetes.io/service-account-token\n  \
           metadata: {{name: empty, annotations: {{kubernetes.io/service-account.name: x}}}}\n\
         - type: kubernetes.io/service-account-token\n  \
           metadata: {{name: twice, annotations: {{kubernetes.io/service-account.name: x}}}}\n  \
           stringData: {{token: token-of-builder}}\n"
    ));
    expect_test::expect![[r#"
        a.yaml, document 5: Secret default/nameless: a service account token needs the annotation kubernetes.io/service-account.name: add it
        a.yaml, document 5: Secret default/empty: the key "token" is missing or empty: add the caller's token, without a line end
        a.yaml, document 5: Secret default/twice: its token is also that of Secret ci/a: give each service account a token of its own
        a.yaml, document 4: ClusterRole sum: aggregationRule is not evaluated here: write the rules out
        a.yaml, document 2: RoleBinding ci/b: roleRef names Role ci/absent, which is not here: add it, or correct roleRef
        a.yaml, document 3: ClusterRoleBinding b: roleRef.kind "Role" is unknown: write Role or ClusterRole"#]].assert_eq(&problems.join("\n"));
    assert_eq!(table.accounts(), 3);
}
