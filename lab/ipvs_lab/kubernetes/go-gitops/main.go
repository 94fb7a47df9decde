// Command gitops says what Argo CD and Flux make of objects, which it reads as a JSON list.
//
//	gitops health SCRIPT   of each object, Argo CD's health by a Lua script, and Flux's status, which is kstatus'
//	gitops flux            of each object of Flux's own kinds, "" or what its definition has against it
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	helm "github.com/fluxcd/helm-controller/api/v2"
	kustomize "github.com/fluxcd/kustomize-controller/api/v1"
	source "github.com/fluxcd/source-controller/api/v1"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	whole "k8s.io/apimachinery/pkg/util/json"
)

type verdict struct {
	Argo string `json:"argo"`
	Flux string `json:"flux"`
}

func main() {
	told, err := answer(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(told)
}

func answer(arguments []string) (any, error) {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		return nil, err
	}
	if len(arguments) == 1 && arguments[0] == "flux" {
		var objects []json.RawMessage
		if err := json.Unmarshal(input, &objects); err != nil {
			return nil, err
		}
		told := []string{}
		for _, object := range objects {
			told = append(told, flux(object))
		}
		return told, nil
	}
	if len(arguments) != 2 || arguments[0] != "health" {
		return nil, fmt.Errorf("usage: gitops health SCRIPT | gitops flux")
	}
	script, err := os.ReadFile(arguments[1])
	if err != nil {
		return nil, err
	}
	var objects []map[string]any
	if err := whole.Unmarshal(input, &objects); err != nil { // whole numbers stay so: kstatus takes no others
		return nil, err
	}
	told := []verdict{}
	for _, object := range objects {
		health, err := argo(object, string(script))
		if err != nil {
			return nil, err
		}
		result, err := status.Compute(&unstructured.Unstructured{Object: object})
		if err != nil {
			return nil, err
		}
		told = append(told, verdict{health, string(result.Status)})
	}
	return told, nil
}

// argo runs the script as Argo CD does: with the base and table libraries, the object as `obj`, a table for an answer.
func argo(object map[string]any, script string) (string, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			return "", err
		}
	}
	state.SetGlobal("obj", value(state, object))
	if err := state.DoString(script); err != nil {
		return "", err
	}
	health, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return "", fmt.Errorf("the script returns no table but %s", state.Get(-1).Type())
	}
	if message := health.RawGetString("message"); message.Type() != lua.LTString {
		return "", fmt.Errorf("the script's message is %s", message.Type())
	}
	return health.RawGetString("status").String(), nil
}

// value is what Lua has for a value of JSON; null is nil there.
func value(state *lua.LState, given any) lua.LValue {
	switch given := given.(type) {
	case bool:
		return lua.LBool(given)
	case float64:
		return lua.LNumber(given)
	case int64:
		return lua.LNumber(given)
	case string:
		return lua.LString(given)
	case []any:
		table := state.NewTable()
		for _, one := range given {
			table.Append(value(state, one))
		}
		return table
	case map[string]any:
		table := state.NewTable()
		for key, one := range given {
			table.RawSetString(key, value(state, one))
		}
		return table
	}
	return lua.LNil
}

// flux reads an object as Flux would, and as strictly as its API server.
func flux(object []byte) string {
	var head struct{ APIVersion, Kind string }
	if err := json.Unmarshal(object, &head); err != nil {
		return err.Error()
	}
	kinds := map[string]any{
		source.GroupVersion.String() + "/GitRepository":    &source.GitRepository{},
		kustomize.GroupVersion.String() + "/Kustomization": &kustomize.Kustomization{},
		helm.GroupVersion.String() + "/HelmRelease":        &helm.HelmRelease{},
	}
	into, known := kinds[head.APIVersion+"/"+head.Kind]
	if !known {
		return "Flux has no " + head.APIVersion + "/" + head.Kind
	}
	decoder := json.NewDecoder(bytes.NewReader(object))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err.Error()
	}
	return ""
}
