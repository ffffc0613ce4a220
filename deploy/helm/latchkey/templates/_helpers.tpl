{{- define "latchkey.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "latchkey.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "latchkey.labels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "latchkey.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{- define "latchkey.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "latchkey.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* A section of the configuration in TOML. Helm reads whole numbers as floats, which toToml would keep. */}}
{{- define "latchkey.section" -}}
{{- range $key, $value := . }}
{{- if kindIs "map" $value }}
{{- else if kindIs "float64" $value }}
{{ $key }} = {{ int64 $value }}
{{- else }}
{{ $key }} = {{ $value | toJson }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The configuration: that of the chart, and over it that of the values. */}}
{{- define "latchkey.config" -}}
{{- $dir := "/run/secrets/latchkey" -}}
{{- $sessions := dict "url" .Values.sessions.url -}}
{{- if .Values.sessions.passwordSecret.name }}{{- $_ := set $sessions "password_file" (printf "%s/redis/password" $dir) }}{{- end -}}
{{- if .Values.sessions.sentinelPasswordSecret.name }}{{- $_ := set $sessions "sentinel_password_file" (printf "%s/sentinel/password" $dir) }}{{- end -}}
{{- if .Values.sessions.caSecret.name }}{{- $_ := set $sessions "tls_ca_file" (printf "%s/redis-ca/ca.crt" $dir) }}{{- end -}}
{{- if .Values.sessions.clientCertificateSecret }}
{{- $_ := set $sessions "tls_certificate_file" (printf "%s/redis-certificate/tls.crt" $dir) }}
{{- $_ := set $sessions "tls_key_file" (printf "%s/redis-certificate/tls.key" $dir) }}
{{- end -}}
{{- $accounts := dict "url" .Values.accounts.url -}}
{{- if .Values.accounts.passwordSecret.name }}{{- $_ := set $accounts "password_file" (printf "%s/database/password" $dir) }}{{- end -}}
{{- $tls := dict -}}
{{- if .Values.tls.secret }}{{- $tls = dict "certificate_file" (printf "%s/tls/tls.crt" $dir) "key_file" (printf "%s/tls/tls.key" $dir) }}{{- end -}}
{{- if .Values.tls.clientCaSecret.name }}{{- $_ := set $tls "client_ca_file" (printf "%s/client-ca/ca.crt" $dir) }}{{- end -}}
{{- $server := dict "shutdown_grace" (printf "%ds" (int64 .Values.shutdown.graceSeconds)) -}}
{{/* A changed secret reaches the pods within about two minutes, not all at the same time. */}}
{{- $token := dict "keys_dir" (printf "%s/keys" $dir) "activation_delay" "3m" -}}
{{- $fixed := dict "sessions" $sessions "accounts" $accounts "tls" $tls "server" $server "token" (pick $token "keys_dir") "access" (dict "admin_key_file" (printf "%s/admin/admin.key" $dir)) "listen" (dict "grpc" "[::]:50051" "http" "[::]:8081") -}}
{{- range $section, $settings := .Values.config }}
{{- range $key, $_ := $settings }}
{{- if hasKey (default dict (get $fixed $section)) $key }}
{{- fail (printf "config.%s.%s is set by the chart: see values.yaml" $section $key) }}
{{- end }}
{{- end }}
{{- end -}}
{{- $config := mergeOverwrite (dict "token" $token) (deepCopy .Values.config) -}}
{{- $config = mergeOverwrite $config $fixed -}}
{{- range $section, $settings := $config }}
{{- if eq $section "slot" }}
{{- range $slot, $rules := $settings }}
[slot.{{ $slot }}]
{{- include "latchkey.section" $rules }}
{{ end }}
{{- else if $settings }}
[{{ $section }}]
{{- include "latchkey.section" $settings }}
{{ end }}
{{- end }}
{{- end -}}

{{/* The secrets: a list of the folder, the Secret and, for a single file, its key and name. */}}
{{- define "latchkey.secrets" -}}
{{- $secrets := list (dict "folder" "keys" "secret" .Values.signingKeysSecret) -}}
{{- $secrets = append $secrets (dict "folder" "admin" "secret" .Values.adminKeySecret.name "key" .Values.adminKeySecret.key "file" "admin.key") -}}
{{- $secrets = append $secrets (dict "folder" "redis" "secret" .Values.sessions.passwordSecret.name "key" .Values.sessions.passwordSecret.key "file" "password") -}}
{{- $secrets = append $secrets (dict "folder" "sentinel" "secret" .Values.sessions.sentinelPasswordSecret.name "key" .Values.sessions.sentinelPasswordSecret.key "file" "password") -}}
{{- $secrets = append $secrets (dict "folder" "redis-ca" "secret" .Values.sessions.caSecret.name "key" .Values.sessions.caSecret.key "file" "ca.crt") -}}
{{- $secrets = append $secrets (dict "folder" "redis-certificate" "secret" .Values.sessions.clientCertificateSecret) -}}
{{- $secrets = append $secrets (dict "folder" "database" "secret" .Values.accounts.passwordSecret.name "key" .Values.accounts.passwordSecret.key "file" "password") -}}
{{- $secrets = append $secrets (dict "folder" "tls" "secret" .Values.tls.secret) -}}
{{- $secrets = append $secrets (dict "folder" "client-ca" "secret" .Values.tls.clientCaSecret.name "key" .Values.tls.clientCaSecret.key "file" "ca.crt") -}}
{{- $used := list -}}
{{- range $secrets }}{{- if .secret }}{{- $used = append $used . }}{{- end }}{{- end -}}
{{- $used | toJson -}}
{{- end -}}
