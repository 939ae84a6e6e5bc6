#!/bin/sh
# Makes an authority and certificates to try Atlas with, in the folder given or in certs/made.
# For tests only: the keys are not protected, and nobody should trust the authority for long.
set -eu

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
out=${1:-$here/made}
days=30
mkdir -p "$out"
cd "$out"
umask 077

subject() { printf '/O=Atlas, for tests only/CN=%s' "$1"; }

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days "$days" \
    -subj "$(subject 'test authority')" -addext basicConstraints=critical,CA:TRUE \
    -addext keyUsage=critical,keyCertSign,cRLSign -keyout ca.key -out ca.crt 2>/dev/null

# leaf FILE KEYTYPE NAMES: makes FILE.key and FILE.crt, which stand for NAMES.
leaf() {
    case $2 in
        ecdsa) set -- "$1" "$3" -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 ;;
        rsa) set -- "$1" "$3" -newkey rsa:2048 ;;
    esac
    file=$1 names=$2
    shift 2
    openssl req "$@" -nodes -subj "$(subject "$file")" -keyout "$file.key" -out "$file.csr" 2>/dev/null
    printf 'subjectAltName=%s\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n' \
        "$names" >"$file.ext"
    openssl x509 -req -in "$file.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days "$days" \
        -extfile "$file.ext" -out "$file.crt" 2>/dev/null
    rm "$file.csr" "$file.ext"
}

leaf localhost ecdsa DNS:localhost,IP:127.0.0.1,IP:::1
leaf a.test-ecdsa ecdsa DNS:a.test
leaf a.test-rsa rsa DNS:a.test
leaf wildcard ecdsa 'DNS:*.b.test,DNS:b.test'

rm -f ca.srl
chmod 644 ./*.crt
echo "made in $out: ca.crt (trust it in your client), and *.crt with *.key, good for $days days"
