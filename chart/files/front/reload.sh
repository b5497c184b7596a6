# Lets nginx read renewed certificates: the kubelet replaces the files, and nginx reads them only when it starts or reloads.
# Requests in flight end with the old ones. If the new ones cannot be used, nginx logs that and keeps the old ones.
# With nodesOnly there is $accepted: the authorities of the nodes' certificate. One that was replaced stays for ten minutes,
# since nodes may get their new certificate later.
tls=/etc/registry-cache/tls
authority=/etc/registry-cache/client/ca.crt
accepted=/run/front/clients.crt
reload() {
  nginx -e stderr -c /etc/registry-cache/pod/nginx.conf -s reload
}
state() {
  cat $tls/tls.crt $tls/tls.key
}
known=$(state)
[ ! -e $accepted ] || known_authority=$(cat $authority)
rounds_left=0
while sleep 5; do
  now=$(state)
  if [ "$now" != "$known" ]; then
    known=$now
    reload
  fi
  [ -e $accepted ] || continue
  now=$(cat $authority)
  if [ "$now" != "$known_authority" ]; then
    known_authority=$now
    { echo "$now"; cat $accepted; } > $accepted.new
    mv $accepted.new $accepted
    rounds_left=120
    reload
  elif [ $rounds_left -gt 0 ]; then
    rounds_left=$((rounds_left - 1))
    if [ $rounds_left -eq 0 ]; then
      echo "$now" > $accepted
      reload
    fi
  fi
done
