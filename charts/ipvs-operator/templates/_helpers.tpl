{{- define "ipvs.labels" -}}
app.kubernetes.io/name: ipvs-operator
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* All that pods have, so that a new chart alone makes no new pods. The operator finds the agents' by these two. */ -}}
{{- define "ipvs.selector" -}}
app.kubernetes.io/name: ipvs-operator
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- define "ipvs.image" -}}
image: {{ printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) | quote }}
imagePullPolicy: {{ .image.pullPolicy }}
{{- end }}

{{- define "ipvs.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- /* A file of deploy/, for the release's namespace. */ -}}
{{- define "ipvs.deployed" -}}
{{ .root.Files.Get (printf "files/deploy/%s.yaml" .name) | replace "ipvs-system" .root.Release.Namespace }}
{{- end }}

{{- define "ipvs.hook" -}}
{helm.sh/hook: {{ .on }}, helm.sh/hook-weight: "{{ .weight }}", helm.sh/hook-delete-policy: "before-hook-creation,hook-succeeded"}
{{- end }}
