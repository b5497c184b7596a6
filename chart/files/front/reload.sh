# Lets nginx read renewed certificates: the kubelet replaces the files, and nginx reads them only when it starts or reloads.
# Requests in flight end with the old ones. If the new ones cannot be used, nginx logs that and keeps the old ones.
state() {
  cat /etc/registry-cache/tls/tls.crt /etc/registry-cache/tls/tls.key
}
known=$(state)
while sleep 5; do
  now=$(state)
  if [ "$now" != "$known" ]; then
    known=$now
    nginx -e stderr -c /etc/registry-cache/pod/nginx.conf -s reload
  fi
done
