// What Kubernetes' own evaluator says of a ValidatingAdmissionPolicy's expressions.
//
// Expressions and an object, as JSON on stdin, in; for each expression a line `true`, `false` or
// the error. It is built by tests/apiextensions from the libraries of the API server; no policy is
// installed anywhere, and nothing is asked for.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	cel "cel.dev/cel-go/cel"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/admission"
	plugin "k8s.io/apiserver/pkg/admission/plugin/cel"
	limits "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel/environment"
)

// The oldest version whose policies the installation may meet.
const oldest = "1.30"

type expression string

func (text expression) GetExpression() string { return string(text) }

func (text expression) ReturnTypes() []*cel.Type { return []*cel.Type{cel.BoolType} }

func main() {
	var asked struct {
		Expressions []expression
		Object      map[string]any
	}
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	var accessors []plugin.ExpressionAccessor
	for _, text := range asked.Expressions {
		accessors = append(accessors, text)
	}
	object := &unstructured.Unstructured{Object: asked.Object}
	kind := object.GroupVersionKind()
	resource := schema.GroupVersionResource{
		Group: kind.Group, Version: kind.Version, Resource: "connectors",
	}
	attributes := admission.NewAttributesRecord(
		object, nil, kind, object.GetNamespace(), object.GetName(), resource, "",
		admission.Create, &metav1.CreateOptions{}, false, &user.DefaultInfo{Name: "story"},
	)
	known := environment.MustBaseEnvSet(version.MustParseGeneric(oldest))
	compiled := plugin.NewConditionCompiler(known).CompileCondition(
		accessors, plugin.OptionalVariableDeclarations{}, environment.NewExpressions,
	)
	results, _, err := compiled.ForInput(
		context.Background(),
		&admission.VersionedAttributes{
			Attributes: attributes, VersionedObject: object, VersionedKind: kind,
		},
		plugin.CreateAdmissionRequest(
			attributes, metav1.GroupVersionResource(resource), metav1.GroupVersionKind(kind),
		),
		plugin.OptionalVariableBindings{}, nil, limits.RuntimeCELCostBudget,
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, result := range results {
		if result.Error != nil {
			fmt.Println(result.Error)
		} else {
			fmt.Println(result.EvalResult.Value())
		}
	}
}
