#!/usr/bin/env bash
# Certificates to try Ray with TLS: a certificate authority of your own, and one key and certificate for all nodes.
#
#     bash docs/scripts/test-certificates.sh FOLDER ADDRESS...     the IP address of every node, as Ray names it
#
# For tests: whoever has the folder can pose as a node. Prints the variables to set on every node before `ray start`.
set -euo pipefail
umask 077

[[ $# -ge 2 ]] || { sed -n '2,7s/^# \?//p' "$0" >&2; exit 2; }
folder=$1
shift
mkdir -p "$folder"
cd "$folder"

names="DNS:localhost,IP:127.0.0.1"
for address in "$@"; do names+=",IP:$address"; done # a node whose address is not named here waits for ever

openssl req -x509 -newkey rsa:3072 -nodes -days 30 -subj "/CN=atlas test authority" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.crt 2>/dev/null
openssl req -newkey rsa:3072 -nodes -subj "/CN=ray" -keyout node.key -out node.csr 2>/dev/null
openssl x509 -req -in node.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out node.crt 2>/dev/null \
    -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$names")
rm -f node.csr ca.srl ca.key # without its key, nobody signs another

cat <<EOF
export RAY_USE_TLS=1
export RAY_TLS_SERVER_CERT=$PWD/node.crt
export RAY_TLS_SERVER_KEY=$PWD/node.key
export RAY_TLS_CA_CERT=$PWD/ca.crt
EOF
